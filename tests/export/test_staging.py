from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spectr_export.staging import refuse_output, staged
from spectr_runtime import UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "bundle"
    with staged(output) as folder:
        (folder / "file").write_text("new")
        assert not output.exists()
        assert folder.parent == output.parent
    assert (output / "file").read_text() == "new"
    assert names(output.parent) == ["bundle"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path: Path, error: Any) -> None:
    def build_half() -> None:
        with staged(tmp_path / "bundle") as folder:
            (folder / "file").write_text("half")
            raise error

    with pytest.raises(error):
        build_half()
    assert names(tmp_path) == []


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    (output / "old").write_text("old")
    with staged(output) as folder:
        (folder / "file").write_text("new")
        assert names(output) == ["old"]
    assert names(output) == ["file"]
    assert names(tmp_path) == ["bundle"]


def test_what_was_there_stays_when_the_block_fails(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    (output / "old").write_text("old")
    with pytest.raises(ValueError, match="no"), staged(output):
        raise ValueError("no")
    assert names(tmp_path) == ["bundle"]
    assert names(output) == ["old"]


def test_what_was_there_comes_back_when_the_new_folder_cannot_take_its_place(tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    output.mkdir()
    (output / "old").write_text("old")
    with pytest.raises(FileNotFoundError), staged(output) as folder:
        folder.rename(tmp_path / "stolen")
    assert names(output) == ["old"]


def test_an_existing_output_needs_overwrite(tmp_path: Path) -> None:
    refuse_output(tmp_path / "new", overwrite=False)
    with pytest.raises(UsageError, match="exists"):
        refuse_output(tmp_path, overwrite=False)


def test_overwrite_replaces_bundles_only(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a bundle, so --overwrite does not replace it"):
        refuse_output(tmp_path, overwrite=True)
    (tmp_path / "spectr.json").write_text("{}")
    refuse_output(tmp_path, overwrite=True)
