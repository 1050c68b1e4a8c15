"""What the documents say of records and options is what the code does: fields, values, codes, options, examples."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import pytest

from spectr_export.cli import main as export
from spectr_jobs.cli.main import cli as batch
from spectr_jobs.records import fields, record
from spectr_runtime import SamplingParams

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
}
DECODING = DOCUMENTS["decoding.md"]


def section(heading: str) -> str:
    """Return what stands in decoding.md between a heading and the next one."""
    return DECODING.partition(f"\n{heading}\n")[2].partition("\n#")[0]


def table(text: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return rows[2:]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_sampling_fields_are_those_that_are_read() -> None:
    assert {names(row[0])[0] for row in table(section("### Sampling fields"))} == fields.SAMPLING.keys()


def test_the_refused_fields_are_those_that_are_refused_with_their_values() -> None:
    refused, _, codes = section("### What is refused").partition("A failed record")
    told = {name: tuple(map(json.loads, names(accepted))) for cell, accepted in table(refused) for name in names(cell)}
    assert told == dict(fields.UNSUPPORTED)
    sources = [*(ROOT / "jobs").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert all(f'"{code}"' in text for cell, _ in table(codes) for code in names(cell))


def test_the_names_that_are_reserved_or_without_effect_are_told() -> None:
    reserved = section("### Plain records").partition("The names ")[2].partition(" are refused")[0]
    assert set(names(reserved)) == record.RESERVED
    harmless = {name for row in table(section("### Records of the OpenAI Batch API")) for name in names(row[0])}
    assert harmless >= record.HARMLESS


@pytest.mark.parametrize("document", ["README.md", "decoding.md"])
def test_the_records_are_understood(document: str) -> None:
    (block,) = re.findall(r'```json\n(\{"id": "a".*?)```', DOCUMENTS[document], re.DOTALL)
    for line in block.splitlines():
        assert isinstance(record.parse(line.encode(), "file:1", "simple", SamplingParams()), record.Record)


def options_of(command: click.Command) -> set[str]:
    """Return the long options of a command and of its subcommands."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    own = {max(one.opts, key=len) for one in command.params if isinstance(one, click.Option)} - {"--version"}
    return own.union(*map(options_of, below))


@pytest.mark.parametrize(
    ("command", "documents"),
    [(batch, ("decoding.md", "jobs.md")), (export, ("exporting.md",))],
    ids=["batch", "export"],
)
def test_every_option_is_told(command: click.Group, documents: tuple[str, ...]) -> None:
    told = set(re.findall(r"--[a-z][a-z-]+", "\n".join(DOCUMENTS[name] for name in documents)))
    assert options_of(command) - told == set()
