"""``benchmarks/quote.py``: the documents say of measurements what the result files say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import NormalDist
from types import ModuleType

import click
import pytest
from scripts import ROOT, load_script

TEXT = "Before.\n\n<!-- quoted: speed -->\nold\n<!-- end -->\n\nBetween.\n\n<!-- quoted: size -->\n<!-- end -->\n"
QUOTES = {
    "speed": ("speed.json", lambda result: f"{result['words']}\n\n| {result['words']} |\n\n- {result['words']}"),
    "size": ("speed.json", lambda result: f"{result['size']} of them."),
}


@pytest.fixture
def quote(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/quote.py")


@pytest.fixture
def small(quote: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    (tmp_path / "speed.json").write_text(json.dumps({"words": " ".join(["123456789"] * 13), "size": 3}))
    monkeypatch.setattr(quote, "RESULTS", tmp_path)
    monkeypatch.setattr(quote, "ROOT", tmp_path)
    return quote


def test_every_document_says_what_the_results_say_and_every_quote_stands_in_one(quote: ModuleType) -> None:
    texts = quote.compare(quote.documents(), quote.QUOTES)
    assert texts
    differing = [path.name for path, (text, new) in texts.items() if text != new]
    assert differing == [], "run benchmarks/quote.py"


def test_writing_quotes_loads_nothing_heavy() -> None:
    code = "import sys, quote; print({'torch', 'numpy', 'transformers', 'scipy'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_blocks_are_replaced_and_paragraphs_wrapped(small: ModuleType) -> None:
    first, rest = "123456789 " * 12, "123456789"
    text, names = small.renewed("it.md", TEXT, QUOTES)
    assert names == ["speed", "size"]
    assert text == TEXT.replace(
        "old\n", f"{first[:-1]}\n{rest}\n\n| {first}{rest} |\n\n- {first[:-11]}\n  {rest} {rest}\n"
    ).replace("size -->\n", "size -->\n3 of them.\n")
    assert small.renewed("it.md", text, QUOTES)[0] == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- quoted: sped -->\n<!-- end -->\n", "it.md: nothing is called sped in benchmarks/quoting, but speed"),
        ("\n<!-- quoted: speed -->\nold\n", "it.md:2: the block of speed has no end"),
        ("<!-- quoted: speed -->\n<!-- quoted: size -->\n<!-- end -->\n", "it.md:1: the block of speed has no end"),
        ("a\n<!-- end -->\n", "it.md:2: an end without a block that begins"),
        (TEXT + TEXT, "speed is quoted twice: in it.md and in it.md"),
        ("<!-- quoted: speed -->\n<!-- end -->\n", "no document quotes size"),
    ],
)
def test_what_is_wrong_with_blocks_is_told(small: ModuleType, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "it.md").write_text(text)
    with pytest.raises(click.ClickException, match=message):
        small.compare([tmp_path / "it.md"], QUOTES)


def test_a_result_that_is_not_there_is_told(small: ModuleType) -> None:
    with pytest.raises(click.ClickException, match=r"benchmarks/results/gone\.json is not there"):
        small.renewed("it.md", TEXT, {"speed": ("gone.json", str), "size": ("gone.json", str)})


def test_clear_differences_from_races_are_counted_by_shape(quote: ModuleType) -> None:
    from quoting.claims import versus  # the fixture makes it importable

    lines = [
        {"rule": rule, "shape": shape, "to_race": gap}
        for rule, shape, gap in (
            ("kseq", "paths", [0.8, 0.2]),
            ("kseq", "paths", [0.3, 0.2]),
            ("rrs", "siblings", [-0.8, 0.2]),
            ("kseq", "tree of rrs", [0.8, 0.2]),
            ("kseq", "tree of kseq", [0.8, 0.2]),
        )
    ]
    result = {"settings": {"1.0": {"compared": lines}}}
    assert versus(result, ("kseq", "rrs"), 1) == "1 of 2 over paths and 1 of 1 over trees"
    assert versus(result, ("kseq", "rrs"), -1) == "1 of 1 over siblings"
    assert versus(result, ("block",), 1) == "no comparison"


def test_differences_are_told_from_chance_by_holms_test(quote: ModuleType) -> None:
    from quoting.comparisons import chance, signs

    assert chance(1.959964, 1) == pytest.approx(0.05)
    assert (chance(0, 0), chance(0.1, 0)) == (1, 0)
    # 0.03 is above 0.05 / 2, so that 0.04, though below 0.05, is not told from chance either.
    chances, sides = (0.01, 0.04, 0.03, 0.005), (1, 1, -1, -1)
    gaps = [(NormalDist().inv_cdf(1 - one / 2) * side, 1.0) for one, side in zip(chances, sides, strict=True)]
    assert signs(gaps) == [1, 0, 0, -1]
    assert signs(gaps, level=0.2) == [1, 1, -1, -1]
    assert signs([]) == []


def test_a_stem_is_an_inner_one_between_none_and_the_longest(quote: ModuleType) -> None:
    from quoting.newest import inner_stems

    lines = [
        {"situation": "a", "equal": "b", "rules": {"kseq": {"tokens": kseq}, "otm": {"tokens": otm}}}
        for kseq, otm in ((1.0, 3.0), (3.0, 2.0), (2.0, 1.0))
    ]
    assert inner_stems(lines) == (1, 2)
