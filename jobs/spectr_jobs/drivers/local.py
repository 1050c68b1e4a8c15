"""The local driver: this process, alone or as one of several ranks."""

from __future__ import annotations

import dataclasses
import sys
from typing import BinaryIO

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.drivers.shards import announce, check_finished, session_facts, unsealed
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models
from spectr_jobs.work.progress import Progress
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_jobs.work.worker import decode_shards
from spectr_runtime.bundle import Bundle


@dataclasses.dataclass(frozen=True, slots=True)
class Local:
    """The driver that decodes the shards of a rank in this process.

    Attributes:
        rank: The rank.
    """

    rank: Rank

    def decode(self, run: RunDirectory, bundle: Bundle, setup: Setup, stop: Stop, echo: BinaryIO | None) -> None:
        """Decode the shards of the rank that are not sealed; see ``Driver.decode``."""
        mine = self.rank.shards(len(run.shards))
        if not (left := unsealed(run, mine)):
            return
        decoder = models.open_decoder(bundle, setup, seed=run.manifest.terms.seed, date=run.manifest.date)
        total, remaining = (sum(map(run.manifest.size_of, some)) for some in (mine, left))
        progress = Progress(sys.stderr, total)
        progress.skip(total - remaining)
        announce(run, setup, remaining, str(self.rank) if self.rank.world > 1 else "")
        facts = session_facts(setup, self.rank.index, self.rank.world)
        session = Session(run.sessions, facts, progress, decoder, echo)
        busy = decode_shards(run, decoder, left, session, stop)
        check_finished(run, busy, stop, session.tally.rows + session.tally.failed)
