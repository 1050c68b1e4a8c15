"""The table of architectures in docs/exporting.md is that of the result file."""

from __future__ import annotations

import json
from pathlib import Path

from architectures import ARCHITECTURES, MIXTURES, table

ROOT = Path(__file__).parent.parent.parent
START, END = "<!-- architectures: benchmarks/architectures.py -->\n", "\n<!-- end of architectures -->"


def test_the_document_shows_the_result_file() -> None:
    lines = json.loads((ROOT / "benchmarks" / "results" / "architectures.json").read_text(encoding="utf-8"))["lines"]
    assert [line["architecture"] for line in lines] == list(ARCHITECTURES)
    assert all(line["equal_texts"] for line in lines)
    outcomes = {(line["architecture"], name): said for line in lines for name, said in line["engines"].items()}
    refused = {asked for asked, said in outcomes.items() if said.startswith("refused")}
    assert refused == {(architecture, "fp8") for architecture in MIXTURES}
    document = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    assert document.partition(START)[2].partition(END)[0] == table(lines)
