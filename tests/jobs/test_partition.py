"""Folders of partitioned tables, and links in folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs_stub import read_lines, write_lines

from spectr_jobs.inputs.expansion import expand, partition_of


@pytest.mark.parametrize(
    ("name", "path", "fields"),
    [
        ("data", "data/lang=de/year=2024/a.jsonl", {"lang": "de", "year": "2024"}),
        ("data/", "data/lang=de/a.jsonl", {"lang": "de"}),
        ("data/lang=de", "data/lang=de/part=1/a.jsonl", {"part": "1"}),
        ("data/lang=*/a.jsonl", "data/lang=de/a.jsonl", {"lang": "de"}),
        ("data/**/*.jsonl", "data/x/lang=de/y/a.jsonl", {"lang": "de"}),
        ("data/lang=de/a.jsonl", "data/lang=de/a.jsonl", {}),
        ("s3://b/t", "s3://b/t/day=2024%2D01%2D02/a.parquet", {"day": "2024-01-02"}),
        ("data", "data/k=a=b/=x/y=/a.jsonl", {"k": "a=b", "y": ""}),
        ("data", "data/lang=__HIVE_DEFAULT_PARTITION__/a.jsonl", {"lang": None}),
        ("data", "data/a=1.jsonl", {}),
    ],
)
def test_folders_stand_for_fields(name: str, path: str, fields: dict[str, str | None]):
    assert partition_of(name, path) == fields


def test_plain_records_carry_the_fields_of_their_folders(batch, bundle: Path, tmp_path: Path):
    for lang in ("de", "fr"):
        folder = tmp_path / "data" / f"lang={lang}" / "seed=7"
        folder.mkdir(parents=True)
        own = {"id": f"{lang}-own", "prompt": "x", "lang": "own"}
        openai = {"custom_id": f"{lang}-c", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
        write_lines(folder / "a.jsonl", [{"id": lang, "prompt": "x", "n_th": 1}, own, openai, {"id": f"{lang}-bad"}])
    result = batch("run", bundle, tmp_path / "data", "-o", tmp_path / "run")
    assert result.code == 3
    rows = read_lines(tmp_path / "run" / "output.jsonl")
    assert [row.get("lang") for row in rows] == ["de", "own", None, "fr", "own", None]
    assert rows[0]["n_th"] == 1
    assert not any("seed" in row for row in rows)
    assert result.decoder.params["de"].seed is None
    assert [row["lang"] for row in read_lines(tmp_path / "run" / "errors.jsonl")] == ["de", "fr"]
    # The folders are kept in the manifest, so that a replay gives the same row.
    assert batch("replay", tmp_path / "run", "--id", "de").code == 0
    files = json.loads((tmp_path / "run" / "manifest.json").read_bytes())["files"]
    assert [file["partition"] for file in files] == [{"lang": "de", "seed": "7"}, {"lang": "fr", "seed": "7"}]
    (tmp_path / "data" / "lang=de").rename(tmp_path / "data" / "lang=it")
    moved = batch("run", bundle, tmp_path / "data", "-o", tmp_path / "run")
    assert moved.code == 2
    assert "now it is ['lang=fr/seed=7/a.jsonl', 'lang=it/seed=7/a.jsonl']" in moved.err


def test_links_are_followed_and_nothing_is_reached_twice(tmp_path: Path):
    data, other = tmp_path / "data", tmp_path / "other"
    for folder in (data / "inner", other):
        folder.mkdir(parents=True)
    write_lines(data / "inner" / "a.jsonl", [{"prompt": "x"}])
    write_lines(other / "b.jsonl", [{"prompt": "x"}])
    (data / "loop").symlink_to(data)
    (data / "inner" / "up").symlink_to("..")
    (data / "linked").symlink_to(other)
    (data / "again").symlink_to(data / "inner")
    (data / "z.jsonl").symlink_to(other / "b.jsonl")
    (data / "gone.jsonl").symlink_to("nowhere")
    found = expand(str(data))
    assert len(found) == 2
    assert {Path(path).name for path in found} <= {"a.jsonl", "b.jsonl", "z.jsonl"}
    assert {Path(path).resolve() for path in found} == {data / "inner" / "a.jsonl", other / "b.jsonl"}
