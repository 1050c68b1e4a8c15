"""What every driver does before and after decoding: find the shards that are left, announce them, check the end."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from spectr_jobs.console import say
from spectr_jobs.errors import InputChanged, Interrupted
from spectr_jobs.run_directory import claim
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import is_free
from spectr_jobs.run_directory.provenance import machine
from spectr_jobs.run_directory.sessions import read_facts
from spectr_jobs.work.load import Load, look_into
from spectr_jobs.work.setup import FITTED, Setup
from spectr_jobs.work.stop import CONTINUE, Stop
from spectr_jobs.work.worker import Skipped
from spectr_runtime.bundle import Bundle

if TYPE_CHECKING:
    from spectr_runtime.planning.batch import BatchSize


class Chooser(Protocol):
    """A function that chooses a batch size: ``models.choose_batch``, or a test's stand-in for it."""

    def __call__(self, bundle: Bundle, setup: Setup, load: Load, *, date: datetime.date, processes: int) -> BatchSize:
        """Return how many rows are decoded together, with the reason."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """The part of a run that a process takes.

    Attributes:
        shards: Numbers of shards that are left, ascending.
        among: How many processes share these shards.
        beside: How many processes of the run may share the machine, this one included.
    """

    shards: Sequence[int]
    among: int = 1
    beside: int = 1


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


def left_over(run: RunDirectory, given_up: Container[int], stop: Stop) -> Iterator[int]:
    """Yield the shards that no living process has, until there is none; the caller opens each before it asks for more.

    The last come first, since a slow rank is at work on its first. In the end, processes of other machines that show no
    sign of life are waited for, until they do or count as dead.

    Args:
        run: The run directory.
        given_up: Shards that this process cannot decode; more may be added meanwhile.
        stop: Says when to yield no more.
    """
    found = True
    while found and stop.reason is None:
        found = False
        for number in reversed(run.shards):
            if number not in given_up and is_takeable(run, number):
                found = True
                yield number
        if not found and (dead := claim.find_dead(map(run.shard, run.shards), lambda: stop.reason is not None)):
            yield from (number for number in run.shards if run.shard(number) in dead)


def settle_batch(run: RunDirectory, bundle: Bundle, setup: Setup, part: Part, choose: Chooser) -> tuple[Setup, str]:
    """Return the setup with the number of rows that a process decodes together, and why it chose so many.

    The reason is empty where the user has given the number.

    Raises:
        SpectrError: Not one row fits into the memory, or the models cannot be opened.
    """
    if setup.batch_size != FITTED:
        return setup, ""
    load = look_into(run, part.shards).times(1 / part.among)
    size = choose(bundle, setup, load, date=run.manifest.date, processes=part.beside)
    return dataclasses.replace(setup, batch_size=size.rows, longest=size.longest), str(size)


def session_facts(setup: Setup, reason: str, rank: int, world: int) -> dict[str, Any]:
    """Return the contents of a session's first event.

    Args:
        setup: The setup that the session decodes with.
        reason: Why the batch has so many rows; empty if the user has said so.
        rank: Its rank.
        world: Number of ranks.
    """
    chosen = {"batch_size_reason": reason} if reason else {}
    return setup.to_json() | chosen | {"rank": rank, "world": world} | machine()


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
