"""This process, alone or as one of several ranks."""

from __future__ import annotations

import dataclasses
import sys
from typing import BinaryIO

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.drivers.steps import announce, begin, conclude, work
from spectr_jobs.report import summary
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import setup
from spectr_jobs.work.progress import Progress
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime import Bundle


@dataclasses.dataclass(frozen=True, slots=True)
class Local:
    """Decodes the shards of a rank in this process.

    Attributes:
        rank: Which shards these are.
    """

    rank: Rank

    def decode(self, run: RunDirectory, bundle: Bundle, how: Setup, stop: Stop, echo: BinaryIO | None) -> None:
        """Decode what is left of them; see ``Driver``."""
        mine = self.rank.shards(len(run.shards))
        if not (numbers := begin(run, mine)):
            return
        decoder = setup.open_decoder(bundle, how, seed=run.manifest.terms.seed)
        total, remaining = (sum(map(run.manifest.size_of, some)) for some in (mine, numbers))
        progress = Progress(sys.stderr, total)
        progress.skip(total - remaining)
        announce(run, how, remaining, str(self.rank) if self.rank.world > 1 else "")
        facts = how.to_json() | {"rank": self.rank.index, "world": self.rank.world} | summary.machine()
        session = Session(run.sessions, facts, progress, decoder, echo)
        busy = work(run, decoder, numbers, session, stop)
        conclude(run, busy, stop, session.tally.rows)
