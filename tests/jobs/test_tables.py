from __future__ import annotations

import datetime
import decimal
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
        ("in.csv", b"prompt,n\na\n", "row 1: got 1 fields, allowed 2, as the header has"),
        ("in.csv", b"prompt\na,b\n", "row 1: got 2 fields, allowed 1, as the header has"),
        ("in.csv", b"prompt,n,prompt\na,1,b\n", "has several columns 'prompt'"),
        ("in.csv", b'prompt\n"a\n', "in.csv is not sound CSV: unexpected end of data, after line 2"),
        (
            "in.csv",
            b"prompt\n\xe9!\n",
            "in.csv is not UTF-8: invalid continuation byte, after line 0. Export it as UTF-8",
        ),
        ("in.csv", "prompt\n".encode("utf-16"), r"in.csv is UTF-16; allowed is UTF-8. Convert it: .* > utf8.csv`.$"),
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
    names = (
        "a.parquet",
        "A.CSV",
        "a.tsv",
        "a.csv.gz",
        "a.csv.xz",
        "https://h/a.csv.zst?sig=1",
        "a.jsonl",
        "a.jsonl.gz",
    )
    assert [tables.is_table(name) for name in names] == [True] * 6 + [False] * 2


def error_of(path: Path, **columns: str) -> str:
    with pytest.raises(InputError) as caught:
        records(path, **columns)
    return str(caught.value)


def good(path: Path, **columns: str) -> list[Record]:
    found = records(path, **columns)
    assert all(isinstance(record, Record) for record in found), found
    return found


@pytest.mark.parametrize("missing", ["", "NaN", "nan", "None", "null", "<NA>", "NaT"])
def test_a_cell_of_csv_without_a_value_is_no_field(tmp_path: Path, missing: str):
    path = tmp_path / "in.csv"
    path.write_text(
        f"id,prompt,max_tokens,seed,stop,note\na,x,4.0,7.0,{missing},\nb,y,{missing},{missing},s,{missing}\n"
    )
    first, second = good(path)
    assert first.wanted.params == SamplingParams(max_tokens=4, seed=7)
    assert second.wanted.params == SamplingParams(stop=("s",))
    assert second.origin.carried == {"note": missing}
    path.write_text(f"id,prompt,n\na,{missing},1\n")
    (bad,) = records(path)
    assert "prompt: got nothing" in str(bad.error)


def test_cells_of_csv_are_read_as_json_or_as_python_writes_it(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text(
        "id,messages,ignore_eos,enable_thinking,chat_template_kwargs,reasoning_effort,logit_bias\n"
        '007,"[{""role"": ""user"", ""content"": ""x""}]",True,False,"{""a"": 1.0}",low,"{""5"": 2}"\n'
    )
    (record,) = good(path)
    assert record.origin.id == "007"
    (chat,) = record.prompts
    assert chat.messages == ({"role": "user", "content": "x"},)
    assert chat.arguments == {"a": 1, "enable_thinking": False, "reasoning_effort": "low"}
    assert record.wanted.params == SamplingParams(ignore_eos=True, logit_bias=((5, 2.0),))


def test_a_cell_that_is_nested_too_deeply_stays_a_text(tmp_path: Path):
    path = tmp_path / "in.csv"
    path.write_text(f"id,messages\na,{'[' * 5000}\n")
    (bad,) = records(path)
    assert str(bad.error).startswith('in.csv:1: messages: got "[[[[')


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", "id;prompt;max_tokens\na;f(x, y);3\n"),
        ("in.csv", "id\tprompt\tmax_tokens\na\tf(x, y)\t3\n"),
        ("in.TSV", "id\tprompt\tmax_tokens\na\tf(x, y)\t3\n"),
        ("in.csv", 'sep=,\nid,prompt,max_tokens\na,"f(x, y)",3\n'),
        ("in.csv", "sep=|\r\nid|prompt|max_tokens\r\na|f(x, y)|3\r\n"),
        ("in.csv", 'id, prompt, max_tokens\na, "f(x, y)", 3\n'),
        ("in.csv", 'ID,Prompt,Max_Tokens\na,"f(x, y)",3\n'),
        ("in.csv", 'id ,"prompt",max_tokens\ra,"f(x, y)",3\r'),
        ("in.csv", 'id,prompt,max_tokens\na,"f(x, y)",3\n\n,,\n,,\n'),
        ("in.csv", ',id,prompt,max_tokens,,\n0,a,"f(x, y)",3,,\n'),
        ("in.csv", '\n\nid,prompt,max_tokens\na,"f(x, y)",3\n'),
    ],
)
def test_what_spreadsheets_write_is_one_record(tmp_path: Path, name: str, content: str):
    path = tmp_path / name
    path.write_text(content, newline="")
    (record,) = good(path)
    assert (record.origin.id, record.prompts, record.wanted.params.max_tokens) == ("a", ("f(x, y)",), 3)
    assert record.origin.carried == {}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "a,b",
            "in.csv has no column of prompts (prompt, messages, token_ids, or body); it has a, b. "
            "Say which column it is, for instance --column prompt=COLUMN.",
        ),
        (
            "prompt,max_new_tokens",
            "in.csv: column 'max_new_tokens': allowed max_tokens, as spectr calls this field. "
            "Give the column another name, or name it with --column.",
        ),
        (
            "prompt,text",
            "in.csv: column 'text': the output line has a field of this name for itself. Give the column another name.",
        ),
        (
            "custom_id,body,split",
            "in.csv: column 'split': allowed beside body are custom_id, method, url, body. Leave the column out.",
        ),
        (
            "prompt,Prompt ",
            "in.csv: column 'Prompt': allowed prompt, as spectr calls this field. "
            "Give the column another name, or name it with --column.",
        ),
        ("Prompt,PROMPT", "in.csv has several columns 'prompt'. Give every column a name of its own."),
    ],
)
def test_a_column_is_refused_once_by_its_name(tmp_path: Path, header: str, message: str):
    path = tmp_path / "in.csv"
    path.write_text(header + "\n" + ",".join("x" for _ in header.split(",")) + "\n")
    assert error_of(path) == message


def test_numbers_of_pandas_are_read_as_what_they_were(tmp_path: Path):
    table = arrow.table(
        {
            "id": arrow.array([1.0, 2.0]),
            "prompt": ["a", "b"],
            "max_tokens": arrow.array([4.0, None]),
            "seed": arrow.array([float("nan"), 7.0]),
            "top_k": arrow.array([decimal.Decimal(3), None], arrow.decimal128(10, 2)),
            "top_p": arrow.array([decimal.Decimal("0.50"), None], arrow.decimal128(10, 2)),
            "stop_token_ids": [[5.0, 6.0], None],
            "stop": [["\n"], None],
            "score": [float("nan"), 1.0],
            "nested": [{"a": float("nan"), "b": None}, {"a": 2.0, "b": 1}],
            "__index_level_0__": [0, 1],
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    first, second = good(tmp_path / "in.parquet")
    assert (first.origin.id, second.origin.id) == (1, 2)
    assert first.wanted.params == SamplingParams(max_tokens=4, top_k=3, top_p=0.5, stop=("\n",), stop_token_ids=(5, 6))
    assert second.wanted.params == SamplingParams(seed=7)
    assert first.origin.carried == {"score": None, "nested": {"a": None, "b": None}}
    assert second.origin.carried == {"score": 1.0, "nested": {"a": 2.0, "b": 1}}


def test_nested_values_lose_what_is_missing_in_them(tmp_path: Path):
    said = {"role": "user", "content": "x", "name": None, "tool_calls": None}
    table = arrow.table(
        {
            "id": ["a", "b"],
            "messages": [[said], [said]],
            "logit_bias": arrow.array([[("5", 1.0)], []], arrow.map_(arrow.string(), arrow.float64())),
            "tags": arrow.array([[("k", "v")], None], arrow.map_(arrow.string(), arrow.string())),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    first, second = good(tmp_path / "in.parquet")
    assert first.prompts[0].messages == ({"role": "user", "content": "x"},)
    assert (first.wanted.params.logit_bias, second.wanted.params.logit_bias) == (((5, 1.0),), ())
    assert (first.origin.carried, second.origin.carried) == ({"tags": {"k": "v"}}, {"tags": None})


def test_json_in_texts_of_parquet_is_parsed_as_in_csv(tmp_path: Path):
    said = '[{"role": "user", "content": "x"}]'
    path = write_parquet(tmp_path / "in.parquet", [{"id": "a", "messages": said, "max_tokens": "4"}])
    (record,) = good(path)
    assert record.prompts[0].messages == ({"role": "user", "content": "x"},)
    assert record.wanted.params.max_tokens == 4
    body = '{"prompt": "x", "max_tokens": 3}'
    envelope = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    (record,) = good(write_parquet(tmp_path / "in.parquet", [envelope]))
    assert (record.prompts, record.wanted.params.max_tokens) == (("x",), 3)


def test_times_are_texts_where_they_are_carried_and_refused_in_fields(tmp_path: Path):
    when = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901)
    table = arrow.table(
        {
            "prompt": ["x"],
            "when": arrow.array([1], arrow.timestamp("ns")),
            "at": [when],
            "time": [when.time()],
            "zone": arrow.array([when], arrow.timestamp("ms", "UTC")),
        }
    )
    parquet.write_table(table, tmp_path / "in.parquet")
    (record,) = good(tmp_path / "in.parquet")
    assert record.origin.carried == {
        "when": "1970-01-01T00:00:00",
        "at": "2026-01-02T03:04:05.678901",
        "time": "03:04:05.678901",
        "zone": "2026-01-02T03:04:05.678000+00:00",
    }
    path = write_parquet(tmp_path / "in.parquet", [{"prompt": "x", "id": when}])
    assert error_of(path) == (
        "in.parquet: column 'id': got 2026-01-02 03:04:05.678901, allowed no times in this field. "
        "Leave the column out, or give it another name."
    )


def test_bytes_are_text_or_refused_by_their_column(tmp_path: Path):
    (record,) = good(write_parquet(tmp_path / "in.parquet", [{"id": b"a", "prompt": "é".encode(), "x": [b"y"]}]))
    assert (record.origin.id, record.prompts, record.origin.carried) == ("a", ("é",), {"x": ["y"]})
    for column, content in (("id", b"\xff"), ("id", bytes(range(16))), ("blob", b"\xff\0")):
        path = write_parquet(tmp_path / "in.parquet", [{"prompt": "x", column: content}])
        assert error_of(path) == (
            f"in.parquet: column {column!r} holds bytes that are not text in UTF-8. "
            "Leave the column out, or write it as text."
        )


def test_of_two_columns_of_one_name_neither_is_taken(tmp_path: Path):
    table = arrow.table([arrow.array(["a"]), arrow.array(["b"])], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "in.parquet")
    assert error_of(tmp_path / "in.parquet") == (
        "in.parquet has several columns 'prompt'. Give every column a name of its own."
    )
