from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.journal import Journal
from spectr_jobs.run_directory.lock import Lock, held, is_free
from spectr_runtime import files


def test_a_torn_last_line_is_cut_back_and_the_next_line_stands_alone(tmp_path: Path):
    path = tmp_path / "output.jsonl"
    path.write_bytes(b'{"id":1}\n{"id":2,"te')
    opened = Journal(path)
    opened.append(b'{"id":3}\n')
    opened.close()
    assert opened.damaged == 0
    assert path.read_bytes() == b'{"id":1}\n{"id":3}\n'


@pytest.mark.parametrize("torn", [b'{"id":1', b"x" * 200_000])
def test_a_file_without_a_whole_line_is_emptied(tmp_path: Path, torn: bytes):
    path = tmp_path / "output.jsonl"
    path.write_bytes(torn)
    Journal(path).close()
    assert path.read_bytes() == b""


def test_a_long_torn_line_is_cut_at_the_right_place(tmp_path: Path):
    path = tmp_path / "output.jsonl"
    path.write_bytes(b'{"id":1}\n' + b"x" * 200_000)
    Journal(path).close()
    assert path.read_bytes() == b'{"id":1}\n'


def test_damaged_lines_are_taken_out_and_sound_ones_stay(tmp_path: Path):
    path = tmp_path / "output.jsonl"
    path.write_bytes(b'{"id":1}\n\0\0\0\0\n{"id":2}\n[]\n{"id":3}\n')
    opened = Journal(path)
    opened.append(b'{"id":4}\n')
    opened.close()
    assert opened.damaged == 2
    assert [row["id"] for row in journal.rows(path)] == [1, 2, 3, 4]


def test_rows_tell_where_they_stand(tmp_path: Path):
    path = tmp_path / "output.jsonl"
    path.write_bytes('{"id":"é"}\n{"id":2}\n{"id"'.encode())
    assert [(entry.offset, entry.row["id"]) for entry in journal.entries(path)] == [(0, "é"), (12, 2)]
    assert list(journal.rows(tmp_path / "none.jsonl")) == []


def test_a_write_that_fails_leaves_nothing_of_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = Journal(tmp_path / "output.jsonl")
    opened.append(b'{"id":1}\n')
    write, left = os.write, [4]

    def full(handle: int, data: memoryview) -> int:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data[: left.pop()])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*output.jsonl'"):
        opened.append(b'{"id":2}\n')
    monkeypatch.undo()
    opened.append(b'{"id":3}\n')
    opened.close()
    assert opened.path.read_bytes() == b'{"id":1}\n{"id":3}\n'


def test_a_replacement_that_fails_leaves_the_old_file_and_nothing_beside(tmp_path: Path):
    path = tmp_path / "manifest.json"
    files.replace(path, [b"old"])

    def pieces():
        yield b"new"
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        files.replace(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_is_held_by_one_and_free_after(tmp_path: Path):
    with held(tmp_path / "lock"):
        assert Lock.try_take(tmp_path / "lock") is None
        assert not is_free(tmp_path)
    assert is_free(tmp_path)
    assert is_free(tmp_path / "none")
