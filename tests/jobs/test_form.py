"""A file in another form than JSON Lines gets one error; bad lines among good ones get one each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import form
from spectr_jobs.inputs.form import require_lines
from spectr_jobs.inputs.sources import Source

RECORDS = [{"id": n, "messages": [{"role": "user", "content": f"Say {n}"}], "x": {}} for n in range(9)]
LINES = [json.dumps(record) for record in RECORDS]


def look(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    require_lines(Source(str(path), path.name))


FORMS: list[tuple[str, tuple[str, str]]] = [
    (json.dumps(RECORDS), form.ARRAY),
    (json.dumps(RECORDS, indent=1), form.ARRAY),
    (json.dumps(RECORDS[:1], indent=1), form.ARRAY),
    ("[" + ",\n".join(LINES) + "]", form.ARRAY),
    ("[\n" + ",\n".join(LINES) + "\n]\n", form.ARRAY),
    (f"[\n{LINES[0]}\n]", form.ARRAY),
    ("[\n" + ",\n".join(LINES) + "\n", form.ARRAY),
    ("[]", form.ARRAY),
    (json.dumps(RECORDS[0], indent=1), form.SPREAD),
    ("\n".join(json.dumps(record, indent=1) for record in RECORDS), form.SPREAD),
    ("{\n" + LINES[0][1:], form.SPREAD),
    ("".join(LINES), form.JOINED),
    (" ".join(LINES), form.JOINED),
    (f"{LINES[0]}{LINES[1]}\n{LINES[2]}{LINES[3]}\n", form.JOINED),
    (",\n".join(LINES), form.COMMAS),
    ("PAR1 and so on", form.PARQUET),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_another_form_is_one_error_that_says_what_to_do(tmp_path: Path, text: str, expected: tuple[str, str]):
    path = tmp_path / "in.jsonl"
    with pytest.raises(InputError) as caught:
        look(path, "\n " + text)
    assert str(caught.value) == f"in.jsonl is {expected[0]}; allowed is JSON Lines. {expected[1].format(path)}"


def test_a_file_longer_than_what_is_looked_at_is_told_by_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(form, "LOOKED_AT", 120)
    for text in (json.dumps(RECORDS, indent=1), "\n".join(json.dumps(record, indent=1) for record in RECORDS)):
        with pytest.raises(InputError, match="allowed is JSON Lines"):
            look(tmp_path / "in.jsonl", text)


@pytest.mark.parametrize(
    "first",
    [
        "",
        "[1, 2]",
        "[1, 2",
        "{",
        "Hello",
        LINES[0][:20],
        LINES[0][:-1],
        LINES[0] + LINES[1],
        LINES[0] + ",",
        '{"a": ',
        "7",
        "null",
        "[" * 5000,
        '{"prompt": "a\\"',
    ],
)
@pytest.mark.parametrize("count", [1, 9])
def test_a_bad_first_line_among_good_ones_stays_an_error_of_its_own(tmp_path: Path, first: Any, count: int):
    if count > 1 or first != "[":
        look(tmp_path / "in.jsonl", "\n".join([first, *LINES[:count]]))


@pytest.mark.parametrize("text", ["", "\n", "7", "Hello\nthere", '{"id": 1', "{}", "\n".join([*LINES, "[1]", "{"])])
def test_what_is_no_other_form_is_left_to_its_lines(tmp_path: Path, text: str):
    look(tmp_path / "in.jsonl", text)


def test_tables_are_not_looked_at(tmp_path: Path):
    look(tmp_path / "in.csv", "[\n[")
