from __future__ import annotations

from pathlib import Path

import pytest

from spectr_export.original.settings import read_settings
from spectr_runtime import BundleError

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is not JSON: Expecting value: line 1 column 1 (char 0)."),
    "a trailing comma": (b'{"a": 1,}', "is not JSON: "),
    "a byte-order mark": (b"\xef\xbb\xbf{}", "begins with a byte-order mark, which JSON does not allow."),
    "another encoding": ("{}".encode("utf-16"), "is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0"),
    "half a character": (b'{"a": "\xc3', "is not UTF-8: "),
    "a list": (b"[]", "holds a list; it must hold a JSON object, {...}."),
    "a text": (b'"a"', "holds a text; it must hold a JSON object, {...}."),
    "null": (b"null", "holds null; it must hold a JSON object, {...}."),
    "a number": (b"1", "holds a number; it must hold a JSON object, {...}."),
    "lists in lists": (b"[" * 100_000, "is nested too deeply for a JSON file of a checkpoint."),
    "a number of too many digits": (b'{"a": ' + b"1" * 5000 + b"}", "is not JSON: Exceeds the limit"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_object_is_refused_by_its_name(tmp_path: Path, what: str) -> None:
    content, words = BROKEN[what]
    path = tmp_path / "generation_config.json"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_settings(path)
    assert caught.value.message.startswith(f"{path} {words}")
    assert caught.value.hint


def test_an_object_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {"b": [1, null]}, "ü": true}', encoding="utf-8")
    assert read_settings(tmp_path / "a.json") == {"a": {"b": [1, None]}, "ü": True}
