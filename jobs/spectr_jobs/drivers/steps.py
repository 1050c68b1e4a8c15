"""The one path of all drivers: shards that are left, a decoder, and a session that counts."""

from __future__ import annotations

from collections.abc import Iterable

from spectr_jobs.errors import Interrupted
from spectr_jobs.report import summary
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import is_free
from spectr_jobs.work.progress import say
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import CONTINUE, Stop
from spectr_jobs.work.worker import Generator, Worker


def begin(run: RunDirectory, numbers: Iterable[int]) -> list[int]:
    """The shards among these that are not sealed; if there are any, the summary of an earlier end is no longer true.

    Raises:
        Interrupted: Other processes have all of them.
    """
    found = [number for number in numbers if not run.is_sealed(number)]
    if found and not any(is_free(run.shard(number)) for number in found):
        raise Interrupted(f"another process is at work on {run.path}.", hint=f"When it has ended: {CONTINUE}")
    if found:
        run.summary.unlink(missing_ok=True)
    return found


def announce(run: RunDirectory, how: Setup, records: int, who: str) -> None:
    """Say what is decoded and how.

    Args:
        run: The run directory.
        how: How it is decoded.
        records: Records of the shards that are left.
        who: Who decodes; empty for this process alone.
    """
    say(f"decoding {records:,} records{who and f', {who}'}: {how}")
    if others := summary.plans(run) - {str(how.plan)}:
        say(f"earlier rows were decoded with {', '.join(sorted(others))}; they stay, since every plan has the same law")


def work(run: RunDirectory, decoder: Generator, numbers: Iterable[int], session: Session, stop: Stop) -> list[int]:
    """Decode shards and close the session, however it ends.

    Args:
        run: The run directory.
        decoder: Opened for the run's bundle and seed.
        numbers: The shards, taken one by one as the decoder asks for more records.
        session: Counts and reports.
        stop: Says when to take no more records.

    Returns:
        Shards that were left out because another process has them.
    """
    worker = Worker(run, decoder, session, stop)
    try:
        worker.decode(numbers)
    except BaseException as error:
        session.close(type(error).__name__)
        raise
    session.close(stop.reason or "done")
    return worker.busy


def conclude(run: RunDirectory, busy: Iterable[int], stop: Stop, rows: int) -> None:
    """Tell an end from an interruption.

    Args:
        run: The run directory.
        busy: Shards that were left out.
        stop: Says whether the work was stopped.
        rows: Rows that were decoded.

    Raises:
        Interrupted: It was, or another process still has some of the shards.
    """
    if stop.reason is not None:
        raise Interrupted(f"stopped by {stop.reason} after {rows:,} rows.", hint=CONTINUE)
    if any(not run.is_sealed(number) for number in busy):
        raise Interrupted(f"another process has some shards of {run.path}.", hint=f"When it has ended: {CONTINUE}")
