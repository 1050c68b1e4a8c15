"""What every driver does before and after decoding: find the shards that are left, announce them, check the end."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from spectr_jobs.console import say
from spectr_jobs.errors import InputChanged, Interrupted
from spectr_jobs.run_directory import claim
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import is_free
from spectr_jobs.run_directory.provenance import machine
from spectr_jobs.run_directory.sessions import read_facts
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import CONTINUE, Stop
from spectr_jobs.work.worker import Skipped


def unsealed(run: RunDirectory, shards: Iterable[int]) -> list[int]:
    """Return those of some shards that are left to decode.

    Raises:
        Interrupted: Other processes have all of these shards.
    """
    found = [number for number in shards if not run.is_sealed(number)]
    if found and not any(is_takeable(run, number) for number in found):
        others = {other for number in found if (other := claim.holder(run.shard(number))) is not None}
        who = f" ({', '.join(map(str, others))})" if others else ""
        raise Interrupted(f"another process is at work on {run.path}{who}.", hint=f"When it has ended: {CONTINUE}")
    return found


def is_takeable(run: RunDirectory, number: int) -> bool:
    """Return whether a shard is not sealed, and no living process is at work on it."""
    folder = run.shard(number)
    return not run.is_sealed(number) and is_free(folder) and claim.holder(folder) is None


def left_over(run: RunDirectory, given_up: Container[int]) -> Iterator[int]:
    """Yield the shards that no living process has, until there is none; the caller opens each before it asks for more.

    The last come first, since a slow rank is at work on its first. In the end, processes of other machines that show no
    sign of life are waited for, until they do or count as dead.

    Args:
        run: The run directory.
        given_up: Shards that this process cannot decode; more may be added meanwhile.
    """
    found = True
    while found:
        found = False
        for number in reversed(run.shards):
            if number not in given_up and is_takeable(run, number):
                found = True
                yield number
        if not found and (dead := claim.find_dead(run.shard(number) for number in run.shards)):
            yield from (number for number in run.shards if run.shard(number) in dead)


def session_facts(setup: Setup, rank: int, world: int) -> dict[str, Any]:
    """Return the contents of a session's first event: its setup, its rank of so many, and its machine."""
    return setup.to_json() | {"rank": rank, "world": world} | machine()


def announce(run: RunDirectory, setup: Setup, records: int, who: str) -> None:
    """Show the user how many records are decoded, by whom, and with which setup.

    Args:
        run: The run directory.
        setup: The setup to decode with.
        records: Number of records in the shards that are left.
        who: The rank or the actors that decode them; empty if this process decodes the whole run.
    """
    say(f"decoding {records:,} records{who and f', {who}'}: {setup}")
    if others := {facts["plan"] for facts in read_facts(run.sessions)} - {str(setup.plan)}:
        say(f"earlier rows were decoded with {', '.join(sorted(others))}; they stay, since every plan has the same law")


def check_finished(run: RunDirectory, skipped: Skipped, stop: Stop, rows: int) -> None:
    """Check that the work has ended, and was not interrupted.

    Args:
        run: The run directory.
        skipped: Shards that were not decoded.
        stop: Says whether the work was stopped.
        rows: Number of rows that were decoded.

    Raises:
        Interrupted: The work was stopped, or another process still has some of the shards.
        InputChanged: Shards were skipped because their input changed.
    """
    if stop.reason is not None:
        raise Interrupted(f"stopped by {stop.reason} after {rows:,} rows.", hint=CONTINUE)
    if skipped.changed:
        error = skipped.changed[min(skipped.changed)]
        more = f" {len(skipped.changed) - 1:,} more shards could not be decoded." if len(skipped.changed) > 1 else ""
        raise InputChanged(error.message + more, hint=error.hint)
    if any(not run.is_sealed(number) for number in skipped.busy):
        raise Interrupted(f"another process has some shards of {run.path}.", hint=f"When it has ended: {CONTINUE}")
