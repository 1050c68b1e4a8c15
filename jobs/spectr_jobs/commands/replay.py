"""Replay: one record of a run is decoded again, alone, and its new row is compared with the row of the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from spectr_jobs.commands.rounds import no_rounds, render
from spectr_jobs.console import give, say
from spectr_jobs.records import rows
from spectr_jobs.records.record import BadRecord, Record
from spectr_jobs.records.rows import Row
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.run_directory.layout import PARTS
from spectr_jobs.run_directory.provenance import open_bundle
from spectr_jobs.run_directory.sessions import read_facts
from spectr_jobs.work import models
from spectr_jobs.work.setup import Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import UsageError
from spectr_runtime.rows.drafting import CORPUS, TEXTS
from spectr_runtime.rows.rounds import RowRound
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice

SAME, DIFFERENT = 0, 1
LAST_BITS = 1e-3  # difference of log-probabilities that batches of another size may cause
UNDRAFTED = Plan.plain()


class Replayed(NamedTuple):
    """A record that was decoded again: its row, and its rounds as text."""

    row: Row
    rounds: str


def replay(run: RunDirectory, key: str, bundle_path: Path | None, *, rounds: bool = False) -> int:
    """Decode one record alone, write its row to stdout, and say whether the run has the same row.

    The sessions of the run may have had different setups, and the row does not say which of them wrote it. So the
    record is decoded with one setup after another until the rows agree.

    Args:
        run: The run directory.
        key: The record's id.
        bundle_path: Path of the bundle if it was moved; None for the path that the run directory remembers.
        rounds: Whether to write the rounds of the record instead of its row.

    Returns:
        The exit code: 0 if both rows are the same.

    Raises:
        UsageError: No record has the id, or the record has no row yet.
        BundleError: The bundle is not the bundle of the run.
    """
    shard, record = _find_record(run, key)
    kept = _find_row(run.shard(shard), key)
    bundle = open_bundle(run, bundle_path)
    again, difference = Replayed(kept, ""), ""
    for setup in dict.fromkeys(_alone(setup, record, kept, drafting=rounds) for setup in setups(run)):
        again = _decode(run, bundle, setup, record)
        if not (difference := _difference(kept, again.row, counted=_drafts_again(setup.plan, record))):
            break
    give(again.rounds.encode("utf-8", "backslashreplace") if rounds else rows.encode(again.row))
    say(f"{key}: another row; {difference}" if difference else f"{key}: the same row")
    return DIFFERENT if difference else SAME


def _find_record(run: RunDirectory, key: str) -> tuple[int, Record | BadRecord]:
    reader = ShardReader(run.manifest)
    for number in run.shards:
        for record in reader.read(number):
            if record.origin.key == key:
                return number, record
    raise UsageError(
        f"No record of {run.path} has the id {key!r}.", hint="Ids are those of output.jsonl and errors.jsonl."
    )


def _find_row(folder: Path, key: str) -> Row:
    for name in PARTS:
        for row in journal.rows(folder / name):
            if rows.key(row) == key:
                return row
    raise UsageError(f"{key!r} has no row in {folder} yet.", hint="Run the run's command again first.")


def setups(run: RunDirectory) -> list[Setup]:
    """Return the setups of the run's sessions, the latest first.

    Raises:
        UsageError: No session left its events.
    """
    found = [Setup.from_json(facts) for facts in read_facts(run.sessions)][::-1]
    if not found:
        raise UsageError(
            f"{run.sessions} holds no events, which say how the rows were decoded.", hint="Restore its files."
        )
    return found


def _alone(setup: Setup, record: Record | BadRecord, kept: Row, *, drafting: bool) -> Setup:
    """Return the setup with which the record of a row is decoded again, alone: in calls of one row, or of one shape.

    Unless its drafts are of interest, plain decoding replaces the automatic plan and what drafts from a corpus, since
    what either drafts is not drafted again. Both are races, and a race writes the text of plain decoding, whatever it
    drafts. A record that failed may have done so for the source of drafts that it asks for, and plain decoding takes
    all of them.
    """
    again = _drafts_again(setup.plan, record)
    plan = setup.plan if again or drafting or rows.is_failure(kept) else UNDRAFTED
    return dataclasses.replace(setup, batch_size=1 if setup.call_tokens is None else setup.rows, plan=plan)


def _decode(run: RunDirectory, bundle: Bundle, setup: Setup, record: Record | BadRecord) -> Replayed:
    terms = run.manifest.terms
    if isinstance(record, BadRecord):
        return Replayed(rows.error_row(record, seed=terms.seed), no_rounds(record.origin.key))
    decoder = models.open_decoder(bundle, setup, seed=terms.seed, date=run.manifest.date)
    seen: list[RowRound] = []
    requests = [dataclasses.replace(request, watch=seen.append) for request in record.requests]
    outcomes = [*decoder.generate(requests)]
    row = rows.row_of(record, outcomes, seed=terms.seed, created=run.manifest.created)
    return Replayed(row, render(record.origin.key, record.size, seen, decoder.piece))


def _drafts_again(plan: PlanChoice, record: Record | BadRecord) -> bool:
    """Return whether a record that is decoded alone drafts what it drafted in the run, so that counts are the same."""
    asked = record.wanted.draft if isinstance(record, Record) else None
    if plan == AUTO or not plan.drafts:
        return False
    return not {plan.source, asked and asked.source} & {CORPUS, TEXTS}


def _difference(kept: Row, row: Row, *, counted: bool) -> str:
    """Describe the first field in which two rows differ, with both values; return an empty text if the rows agree.

    The counts of speculation are compared only if they are those of the same drafts. A run may have been begun by a
    release that did not count the sources.
    """
    before, now = dict(_fields(kept)), dict(_fields(row))
    for name in dict.fromkeys((*before, *now)):
        if "speculation" in name.split(".") and not (counted and name in before):
            continue
        if not _alike(before.get(name), now.get(name)):
            return f"{name} was {before.get(name)!r}, now it is {now.get(name)!r}"
    return ""


def _alike(before: object, now: object) -> bool:
    """Return whether two values agree; log-probabilities may differ by ``LAST_BITS`` between batch sizes."""
    if isinstance(before, float) and isinstance(now, float):
        return abs(before - now) <= LAST_BITS
    return before == now


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value of a row with its path in the row, for instance ``completions[1].text``."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _fields(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from _fields(item, f"{name}[{index}]")
    else:
        yield name, value
