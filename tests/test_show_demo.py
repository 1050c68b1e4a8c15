"""``examples/show_demo.py`` compares runs, counts the rows whose texts are equal, and draws the speeds."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner
from scripts import load_script

RECORDS = ({"id": "a", "prompt": "def a"}, {"custom_id": "b", "body": {"prompt": "def b"}}, {"id": "c", "prompt": "c"})
RUNS = {"kseq K=2 L=4": (30.0, "xyz"), "auto": (40.0, "pqz"), "plain": (20.0, "pqr")}


def write_run(folder: Path, plan: str, speed: float, letters: str) -> Path:
    """Write what the script reads of a run; a letter is the text of a row, and the rows end in another order."""
    folder.mkdir()
    rows = [
        {"custom_id": "b", "response": {"body": {"choices": [{"text": letters[1]}]}}},
        {"id": "a", "text": letters[0]},
        {"id": "c", "text": letters[2]},
    ]
    summary = {"plan": plan, "rows": 3, "completion_tokens": 3, "tokens_per_second": speed, "rounds": 3}
    summary |= {"block_efficiency": 1.0, "acceptance_by_depth": []}
    (folder / "output.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.fixture
def shown(tmp_path: Path) -> tuple[str, ET.Element]:
    """What the script says of the runs, and the picture that it draws."""
    prompts, picture = tmp_path / "prompts.jsonl", tmp_path / "demo.svg"
    prompts.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), encoding="utf-8")
    runs = [str(write_run(tmp_path / plan, plan, *facts)) for plan, facts in RUNS.items()]
    options = ["--prompts", str(prompts), "--picture", str(picture), "--note", "larger cost & the same law"]
    result = CliRunner().invoke(load_script("examples/show_demo.py").main, [*runs, *options])
    assert result.exit_code == 0, result.output
    return result.output, ET.fromstring(picture.read_text(encoding="utf-8"))


def test_equal_texts_are_counted_by_id(shown: tuple[str, ET.Element]) -> None:
    assert "auto wrote the same text as plain in 2 of 3 rows\n" in shown[0]
    assert "kseq K=2 L=4 keeps the law of plain, not its text" in shown[0]
    assert re.search(r"tokens/s +30 \(1\.50x\) +40 \(2\.00x\) +20 \(1\.00x\)", shown[0])


def test_the_bars_are_as_long_as_the_runs_are_fast(shown: tuple[str, ET.Element]) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in shown[1].iter(f"{svg}text")]
    widths = [float(bar.get("width", "")) for bar in shown[1].iter(f"{svg}rect")][1:]
    assert [width / widths[0] for width in widths] == pytest.approx([1, 2, 1.5], abs=0.01)
    assert texts[1:-1] == [
        *("plain", "20 tokens/s"),
        *("auto", "40 tokens/s · 2.00 times"),
        *("kseq K=2 L=4", "30 tokens/s · 1.50 times"),
    ]
    assert texts[-1] == "larger cost & the same law"
