"""Figures in the documents: puts what ``quoting`` writes from the result files into the blocks that name it.

    python benchmarks/quote.py             # after something was measured
    python benchmarks/quote.py --check     # prints what differs, and exits with 1 if something does

A block of a document stands between the lines `<!-- quoted: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click
from quoting import QUOTES, Quote

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARK = re.compile(r"^<!-- (?:quoted: (?P<name>\S+)|end) -->$", re.MULTILINE)
WIDTH = 120


def documents() -> list[Path]:
    """The documents that may quote."""
    return [ROOT / "README.md", ROOT / "spectr_select" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def written(quote: Quote) -> str:
    """The text of a quote, in lines of the documents' width; tables are as wide as they are."""
    result, write = quote
    return "\n".join(line if line.startswith("|") else wrapped(line) for line in write(read(result)).splitlines())


def wrapped(line: str) -> str:
    """A line of any length in lines of the width; those of an item of a list are indented behind the first."""
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


@cache
def read(result: str) -> Any:
    """What a result file holds."""
    path = RESULTS / result
    if not path.exists():
        raise click.ClickException(f"benchmarks/results/{result} is not there: measure it first")
    return json.loads(path.read_text(encoding="utf-8"))


def blocks(name: str, text: str) -> Iterator[tuple[str, int, int]]:
    """The blocks of a document: what each quotes, and where its text begins and ends."""
    marks = list(MARK.finditer(text))
    for place, mark in enumerate(marks):
        line = text.count("\n", 0, mark.start()) + 1
        if place % 2 == 0 and mark["name"] is None:
            raise click.ClickException(f"{name}:{line}: an end without a block that begins")
        if place % 2 == 0 and (len(marks) == place + 1 or marks[place + 1]["name"] is not None):
            raise click.ClickException(f"{name}:{line}: the block of {mark['name']} has no end")
        if mark["name"] is not None:
            yield mark["name"], mark.end() + 1, marks[place + 1].start()


def renewed(name: str, text: str, quotes: Mapping[str, Quote]) -> tuple[str, list[str]]:
    """A document with the texts of today's results in its blocks, and the names of what it quotes."""
    parts, names, end = [], [], 0
    for quoted, begin, stop in blocks(name, text):
        if quoted not in quotes:
            near = difflib.get_close_matches(quoted, quotes, 1)
            hint = f", but {near[0]}" if near else ""
            raise click.ClickException(f"{name}: nothing is called {quoted} in benchmarks/quoting{hint}")
        parts += [text[end:begin], written(quotes[quoted]), "\n"]
        names.append(quoted)
        end = stop
    return "".join([*parts, text[end:]]), names


def compare(paths: list[Path], quotes: Mapping[str, Quote]) -> dict[Path, tuple[str, str]]:
    """The text of every document, and what it should be; every quote must stand in one of them, and only there."""
    found: dict[Path, tuple[str, str]] = {}
    where: dict[str, str] = {}
    for path in paths:
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        new, names = renewed(name, text, quotes)
        for quoted in names:
            if quoted in where:
                raise click.ClickException(f"{quoted} is quoted twice: in {where[quoted]} and in {name}")
            where[quoted] = name
        found[path] = text, new
    if missing := [quoted for quoted in quotes if quoted not in where]:
        raise click.ClickException(f"no document quotes {', '.join(missing)}")
    return found


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; print what differs, and exit with 1 if something does.")
def main(check: bool) -> None:
    """Write the figures of the result files into the documents."""
    changed = {path: texts for path, texts in compare(documents(), QUOTES).items() if texts[0] != texts[1]}
    for path, (text, new) in changed.items():
        name = str(path.relative_to(ROOT))
        if check:
            lines = difflib.unified_diff(text.splitlines(), new.splitlines(), name, f"{name}, quoted anew", lineterm="")
            click.echo("\n".join(lines))
        else:
            path.write_text(new, encoding="utf-8")
            click.echo(f"{name}: written anew")
    if check and changed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
