"""Object stores: fsspec's memory filesystem, and a real S3 server on this machine (moto's)."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from jobs_stub import StubDecoder, read_lines

from spectr_jobs.run_directory import mirror as module

MERGED = ("output.jsonl", "errors.jsonl", "summary.json", "events.jsonl", "manifest.json")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a new bucket; the endpoint and the credentials are told by the environment, as users do."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"bucket-{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    """URL of an empty place."""
    if request.param == "s3":
        url: str = request.getfixturevalue("s3")
        return url
    return f"memory://{uuid.uuid4().hex}"


def files(url: str) -> dict[str, bytes]:
    """What a store holds, by the path below the URL."""
    filesystem, root = fsspec.url_to_fs(url)
    filesystem.invalidate_cache()
    return {path.partition(root)[2].lstrip("/"): filesystem.cat_file(path) for path in filesystem.find(root)}


@pytest.fixture
def command(bundle: Path, prompts: Path, store: str, tmp_path: Path) -> tuple[object, ...]:
    return ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 6, "--mirror", f"{store}/runs/1")


def test_the_mirror_holds_the_whole_run_in_the_end(batch, command, store: str, tmp_path: Path):
    result = batch(*command)
    assert result.code == 0, result.err
    assert result.err.splitlines()[-1] == f"spectr-batch: everything is at {store}/runs/1"
    found = files(f"{store}/runs/1")
    names = {
        f"shards/{shard:05d}/{name}" for shard in range(4) for name in ("output.jsonl", "errors.jsonl", "sealed.json")
    }
    assert found.keys() == names | {*MERGED}
    assert all((tmp_path / "run" / name).read_bytes() == content for name, content in found.items())


def test_a_run_whose_folder_is_lost_goes_on_from_the_mirror(batch, command, after_rows, store: str, tmp_path: Path):
    batch(*command[:4], tmp_path / "whole", *command[5:7])

    def lose() -> None:
        raise OSError("The machine is gone.")

    after_rows(15, lose)
    assert batch(*command, "--batch-size", 1).code == 1
    assert {name.split("/")[1] for name in files(f"{store}/runs/1") if name.startswith("shards")} == {"00000", "00001"}
    shutil.rmtree(tmp_path / "run")
    result = batch(*command)
    assert (result.code, result.decoder.finished) == (0, 8)
    assert f"spectr-batch: 2 finished shards came back from {store}/runs/1\n" in result.err
    whole = (tmp_path / "whole" / "output.jsonl").read_bytes()
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole == files(f"{store}/runs/1")["output.jsonl"]
    assert batch("verify", tmp_path / "run").code == 0


def test_shards_go_there_while_others_are_decoded(batch, command, store: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    seen: list[int] = []
    real = StubDecoder._outcome

    def outcome(self: StubDecoder, request: Any) -> Any:
        seen.append(len([name for name in files(f"{store}/runs/1") if name.endswith("sealed.json")]))
        return real(self, request)

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    assert batch(*command, "--batch-size", 1, pause=0.03).code == 0
    assert seen == sorted(seen)
    assert seen[-1] in (2, 3)


def test_a_complete_run_sends_nothing_twice(batch, command, monkeypatch: pytest.MonkeyPatch):
    batch(*command)
    monkeypatch.setattr(module.Mirror, "_send_merged", lambda self, run: None)
    sent: list[str] = []
    filesystem = fsspec.url_to_fs(command[-1])[0]
    monkeypatch.setattr(type(filesystem), "put_file", lambda self, *paths, **_: sent.append(paths[0]))
    assert batch(*command).code == 0
    assert sent == []


def test_ranks_send_their_own_shards_and_the_last_one_the_rest(batch, command, store: str):
    for rank in range(2):
        assert batch(*command, "--rank", rank, "--world", 2).code == 0
    assert "summary.json" in files(f"{store}/runs/1")


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_place_that_holds_another_run_is_refused(batch, command, store: str, tmp_path: Path):
    batch(*command)
    result = batch(*command[:4], tmp_path / "other", *command[5:])
    assert (result.code, "4 finished shards came back from" in result.err, result.decoder) == (0, True, None)
    other = batch(*command[:4], tmp_path / "fresh", "--seed", 1, *command[5:7])
    assert other.code == 0
    refused = batch(*command[:4], tmp_path / "fresh", "--seed", 1, *command[5:])
    assert (refused.code, refused.err.splitlines()[-1]) == (
        2,
        f"spectr-batch: error: {store}/runs/1 holds another run. Name another URL with --mirror.",
    )


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_damaged_shard_does_not_come_back(batch, command, store: str, tmp_path: Path):
    batch(*command)
    shutil.rmtree(tmp_path / "run")
    filesystem, root = fsspec.url_to_fs(f"{store}/runs/1")
    filesystem.pipe_file(f"{root}/shards/00001/output.jsonl", b"")
    result = batch(*command)
    assert (result.code, result.err.splitlines()[-1]) == (
        1,
        f"spectr-batch: error: {store}/runs/1/shards/00001/output.jsonl is damaged. Delete this shard there.",
    )


@pytest.mark.parametrize("store", ["memory"], indirect=True)
def test_a_store_that_fails_on_the_way_is_tried_again_and_then_named(
    batch, command, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    filesystem = fsspec.url_to_fs(store)[0]
    real = type(filesystem).put_file

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(type(filesystem), "put_file", refuse)
    result = batch(*command)
    assert (result.code, result.err.splitlines()[-1]) == (
        1,
        f"spectr-batch: error: {store}/runs/1 cannot be reached: TimeoutError: no answer. "
        "Check address and credentials, then run the same command again.",
    )
    assert (tmp_path / "run" / "summary.json").exists()
    monkeypatch.setattr(type(filesystem), "put_file", real)
    again = batch(*command)
    assert (again.code, again.decoder) == (0, None)
    assert "output.jsonl" in files(f"{store}/runs/1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-o", "-", "--mirror", "memory://x"],
            "-o - keeps no run directory that --mirror could copy. Name a run directory.",
        ),
        (["--mirror", "gopher://x"], "Writing to gopher://x is not possible: Protocol not known: gopher."),
    ],
)
def test_a_mirror_that_cannot_be_is_refused(
    batch, bundle: Path, prompts: Path, tmp_path: Path, arguments: list[str], message: str
):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", *arguments)
    assert (result.code, result.err) == (2, f"spectr-batch: error: {message}\n")


def test_inputs_are_read_from_a_store(batch, bundle: Path, prompts: Path, store: str, tmp_path: Path):
    filesystem, root = fsspec.url_to_fs(store)
    filesystem.put_file(str(prompts), f"{root}/in/prompts.jsonl")
    batch("run", bundle, prompts, "-o", tmp_path / "local")
    for place, name in (
        (f"{store}/in/prompts.jsonl", "one"),
        (f"{store}/in", "folder"),
        (f"{store}/in/*.jsonl", "all"),
    ):
        result = batch("run", bundle, place, "-o", tmp_path / name)
        assert result.code == 0, result.err
        assert (tmp_path / name / "output.jsonl").read_bytes() == (tmp_path / "local" / "output.jsonl").read_bytes()
    assert batch("verify", tmp_path / "one").code == 0
    filesystem.pipe_file(f"{root}/in/prompts.jsonl", json.dumps({"prompt": "x"}).encode())
    filesystem.invalidate_cache()
    assert batch("verify", tmp_path / "one").code == 1
    assert batch("run", bundle, f"{store}/in/prompts.jsonl", "-o", tmp_path / "one").code == 2


def test_a_store_that_does_not_answer_is_named(
    batch, s3: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    result = batch("run", bundle, f"{s3}/in.jsonl", "-o", tmp_path / "run")
    assert result.code == 1
    assert result.err.startswith(f"spectr-batch: error: {s3}/in.jsonl cannot be reached: EndpointConnectionError: ")
    assert result.err.endswith("(AWS_ENDPOINT_URL), then run the same command again.\n")


def test_rows_are_equal_wherever_the_input_lies_and_the_mirror_is_readable_alone(batch, command, store: str):
    batch(*command)
    lines = files(f"{store}/runs/1")["output.jsonl"].splitlines()
    assert [json.loads(line) for line in lines] == read_lines(Path(str(command[4])) / "output.jsonl")
