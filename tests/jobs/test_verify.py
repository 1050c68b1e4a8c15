from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_stub import write_bundle, write_lines


@pytest.fixture
def run_dir(batch, bundle: Path, prompts: Path, tmp_path: Path) -> Path:
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 8)
    return tmp_path / "run"


def test_a_complete_run_is_sound(batch, run_dir: Path):
    result = batch("verify", run_dir)
    assert (result.code, result.out, result.decoder) == (0, "", None)
    assert result.err == (f"spectr-batch: {run_dir} is sound: of 20 records 20 completed, 0 failed, 0 to be decoded\n")


def test_a_run_that_was_interrupted_is_incomplete(batch, bundle: Path, prompts: Path, tmp_path: Path):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 8, "--rank", 1, "--world", 2, own_shards=True)
    result = batch("verify", tmp_path / "run")
    assert result.code == 75
    assert "is incomplete: of 20 records 8 completed, 0 failed, 12 to be decoded" in result.err


def empty(path: Path) -> None:
    path.write_bytes(b"")


def drop_a_row(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[1:]))


def repeat_a_row(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[0])


def rename_a_row(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"id":"row-2"', b'"id":"row-x"'))


def change_a_text(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"finish_reason":"stop"', b'"finish_reason":"length"', 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_a_row, "'row-0' has no row, but the shard is sealed"),
        (repeat_a_row, "'row-0' has 2 rows"),
        (rename_a_row, "'row-x' is the id of no record"),
        (change_a_text, "output.jsonl was altered. Remove the folder "),
    ],
)
def test_rows_that_were_tampered_with_are_found(batch, run_dir: Path, damage: Callable[[Path], None], message: str):
    damage(run_dir / "shards" / "00000" / "output.jsonl")
    result = batch("verify", run_dir)
    assert result.code == 1
    assert message in result.err
    assert f"{run_dir} is broken: " in result.err


@pytest.mark.parametrize("change", [drop_a_row, repeat_a_row, change_a_text, empty])
def test_merged_files_must_be_what_the_shards_hold(batch, run_dir: Path, change: Callable[[Path], None]):
    change(run_dir / "output.jsonl")
    result = batch("verify", run_dir)
    assert (result.code, result.err.splitlines()[0]) == (
        1,
        f"spectr-batch: {run_dir}/output.jsonl is not what the shards hold. Remove it. "
        "Run the run's command again, which makes it anew from the shards.",
    )


def test_merged_files_that_are_gone_are_missed(batch, run_dir: Path):
    (run_dir / "errors.jsonl").unlink()
    result = batch("verify", run_dir)
    assert (result.code, result.err.splitlines()[0]) == (
        1,
        f"spectr-batch: {run_dir}/errors.jsonl is gone. "
        "Run the run's command again, which makes it anew from the shards.",
    )


def test_a_run_whose_shards_are_to_be_merged_is_incomplete(batch, run_dir: Path):
    (run_dir / "summary.json").unlink()
    result = batch("verify", run_dir)
    assert (result.code, result.err.splitlines()) == (
        75,
        [
            f"spectr-batch: the shards of {run_dir} are still to be merged; the run's command does that",
            f"spectr-batch: {run_dir} is incomplete: of 20 records 20 completed, 0 failed, 0 to be decoded",
        ],
    )


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("output.jsonl", Path.unlink, "is gone."),
        ("output.jsonl", empty, "was altered."),
        ("errors.jsonl", Path.unlink, "is gone."),
        ("sealed.json", empty, "is damaged: JSONDecodeError('Expecting value: line 1 column 1 (char 0)')."),
        ("sealed.json", lambda path: path.write_text("{}"), "is damaged: KeyError('records')."),
    ],
)
def test_a_damaged_shard_is_named_and_decoded_again_once_it_is_removed(
    batch, run_dir: Path, bundle: Path, prompts: Path, name: str, damage: Callable[[Path], None], said: str
):
    command, shard = ("run", bundle, prompts, "-o", run_dir, "--shard-size", 8), run_dir / "shards" / "00001"
    whole = (run_dir / "output.jsonl").read_bytes()
    damage(shard / name)
    remedy = f"Remove the folder {shard}; the next run of the same command decodes its records again."
    found = batch("verify", run_dir)
    assert (found.code, found.err.splitlines()[0]) == (1, f"spectr-batch: {shard / name} {said} {remedy}")
    again = batch(*command)
    assert (again.code, again.err.splitlines()[-1]) == (1, f"spectr-batch: error: {shard / name} {said} {remedy}")
    assert (run_dir / "output.jsonl").read_bytes() == whole
    shutil.rmtree(shard)
    assert (batch(*command).code, (run_dir / "output.jsonl").read_bytes()) == (0, whole)
    assert batch("verify", run_dir).code == 0


def test_other_inputs_and_another_bundle_are_found(batch, run_dir: Path, prompts: Path, bundle: Path):
    write_bundle(bundle, tag="other")
    assert f"bundle {bundle} is not the one that decoded" in batch("verify", run_dir).err
    write_lines(prompts, [])
    assert f"input {prompts} is not the file that was decoded" in batch("verify", run_dir).err
    prompts.unlink()
    result = batch("verify", run_dir)
    assert f"input {prompts} is gone" in result.err
    assert result.err.endswith("is broken: of 20 records 20 completed, 0 failed, 0 to be decoded\n")


def test_a_folder_that_is_no_run_is_refused(batch, tmp_path: Path):
    result = batch("verify", tmp_path)
    assert (result.code, "is not a run directory: no manifest.json in it." in result.err) == (2, True)
