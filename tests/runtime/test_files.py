"""Replacing a file as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spectr_runtime.files import replace, replacing


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    with replacing(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert path.read_bytes() == b"half and half"
    replace(path, [b"n", memoryview(b"ew")])
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise OSError("No space left on device")

    path = tmp_path / "figures.json"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space left"):
        replace(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
