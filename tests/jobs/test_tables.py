from __future__ import annotations

import datetime
import gzip
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import read_lines

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import sources, tables
from spectr_jobs.inputs.reader import START, Reader
from spectr_jobs.inputs.sources import Source
from spectr_jobs.records.record import Record
from spectr_runtime import SamplingParams

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write_parquet(path: Path, rows: list[dict[str, Any]], group: int = 4) -> Path:
    parquet.write_table(arrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


def records(path: Path, **columns: str) -> list[Any]:
    reader = Reader([Source(str(path), path.name, columns)], ["simple"], SamplingParams())
    return [item.record for item in reader.read(START, None)]


def test_rows_of_parquet_are_records(tmp_path: Path):
    said = [{"role": "user", "content": "Hi"}]
    day = datetime.date(2026, 1, 2)
    path = write_parquet(
        tmp_path / "in.parquet", [{"id": 5, "messages": said, "top_k": None, "max_tokens": 3, "day": day}]
    )
    (record,) = records(path)
    assert (record.origin.id, record.origin.carried, record.wanted.params.max_tokens) == (5, {"day": "2026-01-02"}, 3)
    assert record.prompts[0].messages == ({"role": "user", "content": "Hi"},)


def test_rows_of_csv_are_records_of_the_right_types(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_bytes(
        b"\xef\xbb\xbfid,prompt,max_tokens,temperature,stop,note\r\n"
        b'7,"two\nlines, quoted",5,,"[""a"",""b""]",\r\n8,x,,0.5,a,5\r\n'
    )
    first, second = records(path)
    assert first.prompts[0] == "two\nlines, quoted"
    assert first.wanted.params == SamplingParams(max_tokens=5, stop=("a", "b"))
    assert (first.origin.id, first.origin.carried) == ("7", {"note": ""})
    assert second.wanted.params == SamplingParams(temperature=0.5, stop=("a",))
    assert second.origin.carried == {"note": "5"}


def test_an_empty_prompt_of_csv_is_a_record_error(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text("prompt,n\n,\nx,two\n")
    assert [str(record.error) for record in records(path)] == [
        "in.csv:1: prompt: got nothing, allowed a non-empty prompt or messages or token_ids.",
        'in.csv:2: n: got "two", allowed an integer from 1 to 128.',
    ]


def test_columns_stand_for_fields(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text("uid,question,cap,prompt\na,Why?,3,carried\n")
    with pytest.raises(InputError, match=r"in.csv has no column 'limit'; it has uid, question, cap, prompt"):
        records(path, max_tokens="limit")
    (record,) = records(path, id="uid", prompt="question", max_tokens="cap")
    assert isinstance(record, Record)
    assert (record.origin.key, record.prompts[0], record.wanted.params.max_tokens) == ("a", "Why?", 3)


def test_reading_parquet_starts_at_any_row(tmp_path: Path):
    path = write_parquet(tmp_path / "in.parquet", [{"prompt": str(n)} for n in range(10)])
    for start in range(11):
        lines = list(sources.lines(Source(str(path), "in"), start))
        assert [(line.number, line.offset, line.text) for line in lines] == [
            (n + 1, n, b'{"prompt": "%d"}' % n) for n in range(start, 10)
        ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("in.csv", b"prompt,n\na\n", "row 1: the row and the header have different numbers of fields"),
        ("in.csv", b"prompt\na,b\n", "row 1: the row and the header have different numbers of fields"),
        ("in.csv", b"prompt,n,prompt\na,1,b\n", "has several columns 'prompt'"),
        ("in.csv", b'prompt\n"a\n', "unexpected end of data"),
        ("in.csv", b"prompt\n\xff\n", "must be CSV in UTF-8"),
        ("in.csv.gz", gzip.compress(b"prompt\n" + b"a\n" * 100, mtime=0)[:-4], "ends in the middle"),
        ("in.parquet", b"PAR1 not at all", "is not a sound Parquet file"),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, name: str, content: bytes, message: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        records(tmp_path / name)


def test_a_long_cell_is_no_problem(tmp_path: Path):
    (tmp_path / "in.csv").write_text("prompt\n" + "x" * 500_000 + "\n")
    assert len(records(tmp_path / "in.csv")[0].prompts[0]) == 500_000


def test_a_run_reads_tables_beside_lines_and_remembers_their_columns(batch, bundle: Path, tmp_path: Path):
    rows = [{"uid": f"p{n}", "question": f"Why {n}?"} for n in range(9)]
    table = write_parquet(tmp_path / "a.parquet", rows)
    (tmp_path / "b.csv").write_text("uid,question\n" + "".join(f"c{n},What {n}?\n" for n in range(9)))
    command = ["run", bundle, table, tmp_path / "b.csv", "-o", tmp_path / "run", "--shard-size", 4]
    columns = ["--column", "id=uid", "--column", "prompt=question"]
    assert batch(*command, *columns).code == 0
    ids = [row["id"] for row in read_lines(tmp_path / "run" / "output.jsonl")]
    assert ids == [f"{kind}{n}" for kind in "pc" for n in range(9)]
    assert batch("verify", tmp_path / "run").code == 0
    assert "--column of a.parquet was {'id': 'uid', 'prompt': 'question'}, now it is {}" in batch(*command).err


@pytest.mark.parametrize("value", ["prompt", "=question", "prompt="])
def test_half_a_column_is_refused(batch, bundle: Path, prompts: Path, tmp_path: Path, value: str):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", "--column", value)
    assert (result.code, "allowed FIELD=COLUMN" in result.err) == (2, True)


def test_tables_are_known_by_their_names():
    names = ("a.parquet", "a.csv", "a.csv.gz", "a.csv.zst", "a.jsonl", "a.jsonl.gz")
    assert [tables.is_table(name) for name in names] == [True, True, True, True, False, False]
