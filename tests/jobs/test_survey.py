from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jobs_stub import write_lines

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import survey as module
from spectr_jobs.inputs.reader import Position
from spectr_jobs.inputs.sources import Source, resolve
from spectr_jobs.inputs.survey import Survey, survey
from spectr_runtime import SamplingParams


def look(*paths: Path, shard_size: int = 2, limit: int | None = None) -> Survey:
    return survey(resolve([str(path) for path in paths]), SamplingParams(), shard_size=shard_size, limit=limit)


def simple(*ids: object) -> list[dict[str, Any]]:
    return [{"id": one, "prompt": "x"} for one in ids]


def test_shards_start_where_their_first_lines_do(tmp_path: Path):
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    a.write_bytes(b'{"prompt":1}\n\n{"prompt":"2"}\n{"prompt":"3"}\n')
    b.write_bytes(b'\n{"prompt":"4"}\n{"prompt":"5"}\n')
    found = look(a, b)
    assert [(shard.start, shard.records) for shard in found.shards] == [
        (Position(0, 0, 1), 2),
        (Position(0, 29, 4), 2),
        (Position(1, 16, 3), 1),
    ]
    assert (found.records, found.bad) == (5, 1)
    (refusal,) = found.refusals
    assert refusal.startswith("a.jsonl:1: prompt: got 1, allowed a non-empty text")


def test_a_shard_ends_early_where_its_lines_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "SHARD_BYTES", 100)
    sizes = [20, 20, 20, 20, 200, 20, 90, 20, 20]
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"prompt":"{"x" * (size - 13)}"}}\n' for size in sizes))
    found = survey([Source(str(path), path.name)], SamplingParams(), shard_size=3, limit=None)
    assert [shard.records for shard in found.shards] == [3, 1, 1, 1, 1, 2]
    assert sum(shard.records for shard in found.shards) == found.records == len(sizes)


def test_a_stretch_has_a_fingerprint_of_its_lines_alone(tmp_path: Path):
    def fingerprints(text: str) -> list[str]:
        (tmp_path / "in.jsonl").write_text(text)
        return [shard.fingerprint for shard in look(tmp_path / "in.jsonl").shards]

    first = fingerprints('{"prompt":"1"}\n{"prompt":"2"}\n{"prompt":"3"}\n')
    assert fingerprints('\n{"prompt":"1"}\n{"prompt":"2"}\n\n{"prompt":"3"}') == first
    assert fingerprints('{"prompt":"1"}\n{"prompt":"4"}\n{"prompt":"3"}\n')[1:] == first[1:]
    assert len({*first, *fingerprints('{"prompt":"2"}\n{"prompt":"1"}\n{"prompt":"3"}\n')}) == 3


def test_records_are_counted_by_shape(tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [*simple(1, 2), {"custom_id": "a", "body": {}}, {}])
    (file,) = look(path).files
    assert (file.shape, file.records) == ("simple", {"simple": 3, "openai": 1})


def test_the_limit_counts_records_over_all_inputs(tmp_path: Path):
    a, b = (write_lines(tmp_path / f"{name}.jsonl", simple(*name * 1)) for name in "ab")
    assert look(a, b, limit=1).records == 1
    assert look(a, b, limit=9).records == 2


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_input_without_records_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "in.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match="no record") as caught:
        look(path)
    assert caught.value.exit_code == 42


def test_an_input_without_records_beside_another_is_taken(tmp_path: Path):
    a, b = write_lines(tmp_path / "a.jsonl", []), write_lines(tmp_path / "b.jsonl", simple(1))
    assert [dict(file.records) for file in look(a, b).files] == [{}, {"simple": 1}]


def test_ids_that_occur_twice_are_named_with_both_places(tmp_path: Path):
    a = write_lines(tmp_path / "a.jsonl", simple("x", 7, "y"))
    b = write_lines(tmp_path / "b.jsonl", [*simple("z", "7", "x"), {"custom_id": "y", "body": None}])
    with pytest.raises(InputError) as caught:
        look(a, b)
    assert str(caught.value) == (
        "Ids occur twice: '7' at a.jsonl:2 and b.jsonl:2; 'x' at a.jsonl:1 and b.jsonl:3; "
        "'y' at a.jsonl:3 and b.jsonl:4. Give every record an id of its own."
    )


def test_an_id_may_not_be_the_place_of_a_record_without_one(tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": "in.jsonl:2", "prompt": "x"}, {"prompt": "x"}])
    with pytest.raises(InputError, match=r"'in.jsonl:2' at in.jsonl:1 and in.jsonl:2"):
        look(path)


def test_equal_prompts_are_no_duplicates(tmp_path: Path):
    assert look(write_lines(tmp_path / "in.jsonl", [{"prompt": "x"}] * 3)).records == 3


def test_different_ids_whose_hashes_meet_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_hash", lambda key: 5)
    assert look(write_lines(tmp_path / "in.jsonl", simple(*range(20)))).records == 20


def test_a_duplicate_beyond_the_limit_does_not_count(tmp_path: Path):
    assert look(write_lines(tmp_path / "in.jsonl", simple(1, 2, 1)), limit=2).records == 2
