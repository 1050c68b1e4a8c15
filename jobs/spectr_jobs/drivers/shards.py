"""What every driver does around the work: which shards are left, what the user is told, how the work ended."""

from __future__ import annotations

from collections.abc import Iterable

from spectr_jobs.console import say
from spectr_jobs.errors import Interrupted
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import is_free
from spectr_jobs.run_directory.sessions import read_facts
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import CONTINUE, Stop


def unsealed(run: RunDirectory, shards: Iterable[int]) -> list[int]:
    """Return the shards among these that are left to decode.

    If any are, the summary that an earlier session wrote is removed, since it is no longer true.

    Raises:
        Interrupted: Other processes have all of them.
    """
    found = [number for number in shards if not run.is_sealed(number)]
    if found and not any(is_free(run.shard(number)) for number in found):
        raise Interrupted(f"another process is at work on {run.path}.", hint=f"When it has ended: {CONTINUE}")
    if found:
        run.summary.unlink(missing_ok=True)
    return found


def announce(run: RunDirectory, setup: Setup, records: int, who: str) -> None:
    """Tell the user what is decoded and how.

    Args:
        run: The run directory.
        setup: How the records are decoded.
        records: Records of the shards that are left.
        who: Who decodes them; empty for this process alone.
    """
    say(f"decoding {records:,} records{who and f', {who}'}: {setup}")
    if others := {facts["plan"] for facts in read_facts(run.sessions)} - {str(setup.plan)}:
        say(f"earlier rows were decoded with {', '.join(sorted(others))}; they stay, since every plan has the same law")


def check_finished(run: RunDirectory, busy: Iterable[int], stop: Stop, rows: int) -> None:
    """Tell an end from an interruption.

    Args:
        run: The run directory.
        busy: Shards that were left out because another process had them.
        stop: Says whether the work was stopped.
        rows: Rows that were decoded.

    Raises:
        Interrupted: The work was stopped, or another process still has some of the shards.
    """
    if stop.reason is not None:
        raise Interrupted(f"stopped by {stop.reason} after {rows:,} rows.", hint=CONTINUE)
    if any(not run.is_sealed(number) for number in busy):
        raise Interrupted(f"another process has some shards of {run.path}.", hint=f"When it has ended: {CONTINUE}")
