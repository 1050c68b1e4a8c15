from __future__ import annotations

from pathlib import Path

import pytest

from spectr_export.original.scratch import Scratch, link_files, open_scratch
from spectr_runtime import BundleError


def test_a_stand_in_has_the_files_of_its_source_but_those_that_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "one.jinja").write_text("one")
    with open_scratch() as scratch:
        made = scratch.stand_in(tmp_path)
        link_files(tmp_path, made, without={"config.json"})
        assert sorted(path.name for path in made.iterdir()) == ["model.safetensors", "templates"]
        assert (made / "model.safetensors").read_bytes() == b"weights"
        assert (made / "templates" / "one.jinja").read_text() == "one"
    assert not made.exists()
    assert (tmp_path / "model.safetensors").read_bytes() == b"weights"


def fail(scratch: Scratch) -> None:
    first = scratch.stand_in("owner/name")
    second = scratch.stand_in(first)
    raise BundleError(f"{second}/config.json is wrong.", hint=f"Look at {first}.")


def test_errors_name_the_checkpoint_and_not_what_stands_for_it() -> None:
    with pytest.raises(BundleError) as caught, open_scratch() as scratch:
        fail(scratch)
    assert str(caught.value) == "owner/name/config.json is wrong. Look at owner/name."
