"""URLs with passwords and signatures, as texts and against a server on this machine that asks for them."""

from __future__ import annotations

import base64
import json
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from spectr_jobs.console import say
from spectr_jobs.inputs import sources
from spectr_jobs.inputs.sources import Source, resolve
from spectr_jobs.inputs.stores import bare
from spectr_jobs.urls import identity, masked
from spectr_runtime import UsageError

SECRETS = ("PASSWORD456", "SIGNATURE123")
ROWS = "".join(json.dumps({"id": f"r{n}", "prompt": "x", "max_tokens": 3}) + "\n" for n in range(4)).encode()
TABLE = b"id,prompt\na,x\nb,y\n"


class Handler(BaseHTTPRequestHandler):
    """Asks for a login below /basic/ and a signature below /signed/; there is nothing below /gone/."""

    def log_message(self, *_: object) -> None:
        """Be silent."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, *, body: bool = True) -> None:
        path, _, query = self.path.partition("?")
        login = "Basic " + base64.b64encode(b"anna:PASSWORD456").decode()
        if path.startswith("/signed/") and "SIGNATURE123" not in query:
            return self.refuse(403)
        if path.startswith("/basic/") and self.headers["Authorization"] != login:
            return self.refuse(401)
        if path.startswith("/gone/"):
            return self.refuse(404)
        content = TABLE if path.endswith(".csv") else ROWS
        first, last = 0, len(content) - 1
        if span := self.headers["Range"]:
            first, last = (int(number) for number in span.removeprefix("bytes=").split("-"))
        piece = content[first : last + 1]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(piece)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {first}-{first + len(piece) - 1}/{len(content)}")
        if "/plain/" not in path:
            self.send_header("ETag", '"one"')
        self.end_headers()
        if body:
            self.wfile.write(piece)

    def refuse(self, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    pytest.importorskip("aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "shown", "same"),
    [
        ("http://anna:pw@h:80/a.jsonl", "http://***@h:80/a.jsonl", "http://h:80/a.jsonl"),
        ("https://TOKEN@h/a", "https://***@h/a", "https://h/a"),
        ("http://a:p@ss@h/x", "http://***@h/x", "http://h/x"),
        ("s3://key:with/slash@bucket/a", "s3://***@bucket/a", "s3://bucket/a"),
        ("ftp://anna:pw@h/a", "ftp://***@h/a", "ftp://h/a"),
        ("simplecache::ftp://anna:pw@h/a", "simplecache::ftp://***@h/a", "simplecache::ftp://h/a"),
        ("zip://a::https://u:p@h/x?sig=1", "zip://a::https://***@h/x?***", "zip://a::https://h/x"),
        ("http://h/a?X-Amz-Date=1&X-Amz-Signature=2", "http://h/a?***", "http://h/a"),
        ("http://h/a?versionId=3&X-Goog-Signature=1&part=2", "http://h/a?versionId=3&part=2&***", None),
        ("http://h/a?Expires=1&Key-Pair-Id=2&Policy=3&Signature=4", "http://h/a?***", "http://h/a"),
        ("http://h/a?AWSAccessKeyId=1&GoogleAccessId=2", "http://h/a?***", "http://h/a"),
        ("http://h/a?sv=1&sr=b&st=2&se=3&sp=r&spr=https&skoid=4&sig=5", "http://h/a?***", "http://h/a"),
        ("http://h/a?access_token=1#private%5Ftoken=2", "http://h/a?***", "http://h/a"),
    ],
)
def test_what_gives_access_is_masked_and_no_part_of_the_identity(url: str, shown: str, same: str | None):
    assert masked(url) == shown
    assert masked(f"Input {url}: gone ({url}).") == f"Input {shown}: gone ({shown})."
    assert identity(url) == (same or "http://h/a?versionId=3&part=2")
    assert identity(identity(url)) == identity(url)


@pytest.mark.parametrize(
    "text",
    [
        "http://h:8080/x@y",
        "http://h:8080",
        "abfs://container@account.net/x",
        "ftp://anna@h/x",
        "github://org:repo@main/x",
        "hf://datasets/user/repo@v1/x",
        "http://h/a?st=1&se=2&author=x&version=3",
        "http://h/a#1.jsonl",
        "R&D #3, what? a=b",
    ],
)
def test_what_gives_no_access_stays(text: str):
    assert masked(text) == identity(text) == text


def test_a_secret_that_a_library_shows_without_its_url_is_masked_too():
    url = "s3://key:T%2FN789@bucket/a?token=SIGNATURE"
    assert masked('Invalid bucket name "key:T%2FN789@bucket"; T/N789; SIGNATURE', url) == (
        'Invalid bucket name "***@bucket"; ***; ***'
    )


def test_nothing_that_is_said_shows_a_secret(capsys: pytest.CaptureFixture[str]):
    say("ftp://anna:PASSWORD456@h/run is there")
    assert capsys.readouterr().err == "spectr-batch: ftp://***@h/run is there\n"


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://h/a.csv?X-Amz-Signature=1", "https://h/a.csv"),
        ("https://h/a?b.csv", "https://h/a"),
        ("s3://b/a.csv?versionId=1", "s3://b/a.csv"),
        ("s3://b/a?.csv", "s3://b/a?.csv"),
        ("zip://a.csv::https://h/x.zip?sig=1", "zip://a.csv"),
        ("simplecache::https://h/a.csv?sig=1", "https://h/a.csv"),
        ("a.csv?x=1", "a.csv?x=1"),
    ],
)
def test_the_ending_of_a_name_stands_before_the_query(url: str, plain: str):
    assert bare(url) == plain


def saved(folder: Path) -> dict[str, str]:
    """The texts of all files of a run directory."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "url", ["http://anna:PASSWORD456@{}/basic/a.jsonl", "http://{}/signed/a.jsonl?sig=SIGNATURE123"]
)
def test_the_secrets_of_a_run_are_in_one_file_of_its_owner(batch, bundle: Path, tmp_path: Path, host: str, url: str):
    url = url.format(host)
    run = tmp_path / "run"
    result = batch("run", bundle, url, "-o", run)
    assert (result.code, result.err.splitlines()[0]) == (0, f"spectr-batch: {masked(url)}: 4 simple records")
    assert not any(secret in result.err for secret in SECRETS)
    assert [name for name, text in saved(run).items() if any(secret in text for secret in SECRETS)] == ["urls.json"]
    assert json.loads((run / "urls.json").read_text()) == {identity(url): url}
    assert stat.S_IMODE((run / "urls.json").stat().st_mode) == 0o600
    assert batch("verify", run).code == 0
    (run / "urls.json").unlink()
    refused = batch("verify", run)
    assert refused.code == 1
    assert f"error: {identity(url)} cannot be reached: ClientResponseError: 40" in refused.err
    assert batch("run", bundle, url, "-o", run).code == 0
    assert (run / "urls.json").exists()


@pytest.mark.parametrize("folder", ["signed", "signed/plain"])
def test_a_fresh_signature_continues_a_run_and_another_query_does_not(
    batch, bundle: Path, tmp_path: Path, host: str, folder: str
):
    url = f"http://{host}/{folder}/a.jsonl?part=1&X-Amz-Signature=SIGNATURE123"
    run = ("-o", tmp_path / "run", "--shard-size", 2)
    assert batch("run", bundle, f"{url}-old", *run, "--rank", 0, "--world", 2, own_shards=True).code == 0
    result = batch("run", bundle, f"{url}-new", *run)
    assert (result.code, result.decoder.finished) == (0, 2)
    assert "SIGNATURE123-new" in (tmp_path / "run" / "urls.json").read_text()
    other = batch("run", bundle, url.replace("part=1", "part=2"), *run)
    assert other.code == 2
    assert "inputs was ['a.jsonl?part=1'], now it is ['a.jsonl?part=2']" in other.err


def test_a_server_that_tells_no_version_gives_one_by_its_content(host: str):
    url = f"http://{host}/plain/a.jsonl"
    old, new, other = (Source(found, "a") for found in (url, f"{url}?token=1", f"http://{host}/plain/a.csv"))
    assert sources.fingerprint(old) == sources.fingerprint(new) != sources.fingerprint(other)


def test_a_table_behind_a_signature_is_a_table(host: str):
    (source,) = resolve([f"http://{host}/signed/a.csv?v=1&sig=SIGNATURE123"], {"prompt": "prompt"})
    assert (source.label, source.columns) == ("a.csv?v=1", {"prompt": "prompt"})
    assert [line.text for line in sources.lines(source)] == [
        b'{"id": "a", "prompt": "x"}',
        b'{"id": "b", "prompt": "y"}',
    ]


def test_one_file_with_two_signatures_is_named_twice(host: str):
    with pytest.raises(UsageError) as caught:
        resolve([f"http://{host}/a.jsonl?token=1", f"http://{host}/a.jsonl?token=2"])
    shown = f"http://{host}/a.jsonl?***"
    assert str(caught.value) == f"Input {shown} is the same file as {shown}. Name it once."


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        (
            "http://anna:WRONG@{}/basic/a.jsonl",
            1,
            "http://***@{0}/basic/a.jsonl cannot be reached: ClientResponseError: 401, message='Unauthorized', "
            "url='http://{0}/basic/a.jsonl'. Check address and credentials, then run the same command again.",
        ),
        (
            "http://{}/signed/a.jsonl?sig=EXPIRED",
            1,
            "http://{0}/signed/a.jsonl?*** cannot be reached: ClientResponseError: 403, message='Forbidden', "
            "url='http://{0}/signed/a.jsonl?***'. Check the address. If its signature has expired, run the same "
            "command with a new one.",
        ),
        (
            "http://anna:PASSWORD456@{}/gone/a.jsonl",
            2,
            "Input http://***@{0}/gone/a.jsonl: there is no such file. "
            "Name files of JSON Lines, CSV or Parquet, or folders of them.",
        ),
        (
            "s3://key:PASSWORD456@bucket/a.jsonl",
            2,
            "Reading s3://***@bucket/a.jsonl is not possible: a URL of s3:// has no place for keys. "
            "Leave them out, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ),
        (
            "ftp://anna:PASSWORD456@127.0.0.1:9/a.jsonl",
            1,
            "ftp://***@127.0.0.1:9/a.jsonl cannot be reached: ConnectionRefusedError: [Errno 111] Connection refused. "
            "Check address and credentials, then run the same command again.",
        ),
    ],
)
def test_a_store_that_refuses_is_one_message_without_secrets(
    batch, bundle: Path, tmp_path: Path, host: str, url: str, code: int, message: str
):
    result = batch("run", bundle, url.format(host), "-o", tmp_path / "run")
    assert (result.code, result.err) == (code, f"spectr-batch: error: {message.format(host)}\n")


def test_a_mirror_that_cannot_be_reached_is_named_before_anything_is_decoded(batch, bundle: Path, prompts: Path):
    result = batch(
        "run", bundle, prompts, "-o", prompts.parent / "run", "--mirror", "ftp://a:PASSWORD456@127.0.0.1:9/r"
    )
    assert (result.code, result.decoder) == (1, None)
    assert result.err == (
        "spectr-batch: error: ftp://***@127.0.0.1:9/r cannot be reached: ConnectionRefusedError: [Errno 111] "
        "Connection refused. Check address and credentials, then run the same command again.\n"
    )


def test_wrong_usage_and_the_configuration_show_no_secret(batch, bundle: Path):
    url = "ftp://anna:PASSWORD456@h/run"
    shown = batch("run", bundle, "in.jsonl", "-o", "run", "--mirror", url, "--print-config")
    assert 'mirror = "ftp://***@h/run"  # command line' in shown.out
    wrong = batch("verify", "run", url)
    assert (wrong.code, wrong.err.splitlines()[-1]) == (2, "Error: Got unexpected extra argument (ftp://***@h/run)")


@pytest.mark.parametrize(
    ("queue", "told"),
    [
        (("slurm", "--time", "1h"), ""),
        (("kubernetes", "--image", "i", "--claim", "c"), ", but all who may see the cluster's jobs can too"),
    ],
)
def test_a_job_with_a_secret_is_for_its_owner_alone(batch, tmp_path: Path, bundle: Path, queue, told: str):
    job = tmp_path / "job"
    for url, mode in (("http://h/a.jsonl", 0o644), ("http://a:PASSWORD456@h/a.jsonl", 0o600)):
        job.unlink(missing_ok=True)
        result = batch("submit", *queue, "--ranks", 2, "--to", job, "--", bundle, url, "-o", "run")
        assert (result.code, url in job.read_text()) == (0, True)
        assert stat.S_IMODE(job.stat().st_mode) & mode == stat.S_IMODE(job.stat().st_mode)
    warning = f"spectr-batch: warning: {job} holds what gives access to a URL; only you can read it{told}"
    assert result.err.splitlines()[-1] == warning
