"""The local driver: this process, alone or as one of several ranks."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Collection, Iterator
from typing import BinaryIO

from spectr_jobs.console import say
from spectr_jobs.drivers.rank import Rank
from spectr_jobs.drivers.shards import (
    Part,
    announce,
    check_finished,
    is_takeable,
    left_over,
    session_facts,
    settle_batch,
    unsealed,
)
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models
from spectr_jobs.work.progress import Progress
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_jobs.work.worker import Skipped, decode_shards
from spectr_runtime.bundle import Bundle


@dataclasses.dataclass(frozen=True, slots=True)
class Local:
    """The driver that decodes shards in this process: first those of its rank, then what other ranks leave.

    Attributes:
        rank: The rank.
        shared: Whether other ranks see the run directory. If not, each keeps to its own shards.
    """

    rank: Rank
    shared: bool = True

    def decode(
        self, run: RunDirectory, bundle: Bundle, setup: Setup, stop: Stop, echo: BinaryIO | None
    ) -> Collection[int]:
        """Decode the shards of the rank that are not sealed, then those that others leave; see ``Driver.decode``."""
        mine = self.rank.shards(len(run.shards))
        progress = Progress(sys.stderr, sum(map(run.manifest.size_of, mine)))
        skipped, taken = Skipped(), set[int]()
        shards = self._shards(run, mine, progress, skipped, taken, stop)
        if (first := next(shards, None)) is None:
            return taken
        run.summary.unlink(missing_ok=True)  # what an earlier session wrote is no longer true
        shards_left = sorted(number for number in {first, *mine} if not run.is_sealed(number))
        part = Part(shards_left, beside=self.rank.beside)
        setup, reason = settle_batch(run, bundle, setup, part, models.choose_batch)
        if reason:
            say(reason)
        decoder = models.open_decoder(bundle, setup, seed=run.manifest.terms.seed, date=run.manifest.date)
        left = sum(map(run.manifest.size_of, part.shards))
        progress.skip(progress.total - left)
        announce(run, setup, left, str(self.rank) if self.rank.world > 1 else "")
        facts = session_facts(setup, reason, self.rank.index, self.rank.world)
        session = Session(run.sessions, facts, progress, decoder, echo)
        decode_shards(run, decoder, itertools.chain([first], shards), session, stop, skipped)
        if self._helps:  # those who have the other shards finish them
            skipped.busy.clear()
        check_finished(run, skipped, stop, session.tally.rows + session.tally.failed)
        return taken

    @property
    def _helps(self) -> bool:
        """Whether the process takes shards of others. Alone it has all of them, and waits for nobody."""
        return self.shared and self.rank.world > 1

    def _shards(
        self, run: RunDirectory, mine: range, progress: Progress, skipped: Skipped, taken: set[int], stop: Stop
    ) -> Iterator[int]:
        if not self._helps:
            yield from unsealed(run, mine)
            return
        yield from (number for number in mine if is_takeable(run, number))
        for number in left_over(run, skipped.changed, stop):
            if number not in mine and number not in taken:
                taken.add(number)
                progress.extend(run.manifest.size_of(number))
            yield number
