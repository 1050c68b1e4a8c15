"""The README of select: its example runs, and its table of rules is complete."""

from __future__ import annotations

import re
from pathlib import Path

import spectr_select
from spectr_select import RULES
from spectr_select.exact.acceptance import ACCEPTANCE

README = (Path(spectr_select.__file__).parent / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    counts, alpha = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"accepted drafts of each row: \[([0-3], ){7}[0-3]\] then: \[(\d+, ){7}\d+\]", counts)
    assert 0.5 < float(alpha.split(": ")[1]) < 1


def test_the_table_is_that_of_the_rules() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in README.splitlines() if line.startswith("| `")]
    assert [row[0].strip("`") for row in rows] == list(RULES)
    for row in rows:
        rule = RULES[row[0].strip("`")]
        assert row[2] == rule.trees
        assert (row[4] != "") == (rule.name in ACCEPTANCE)
