"""An actor: a process of a cluster that takes shards from the desk until there are none."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.provenance import machine
from spectr_jobs.work.models import RunDecoder
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_jobs.work.worker import decode_shards
from spectr_runtime.bundle import Bundle

REPORT_SECONDS = 0.5


class Opener(Protocol):
    """Loads the models of a bundle: ``models.open_decoder``, or what a test puts in its place."""

    def __call__(self, bundle: Bundle, setup: Setup, *, seed: int) -> RunDecoder:
        """Open a decoder for the run's seed."""
        ...


class DeskDisplay:
    """An actor's line to the desk: the ``Display`` of its session, which also brings back when the actor is to stop."""

    def __init__(self, report: Callable[[Tally, tuple[str, ...]], str | None], stop: Stop) -> None:
        """Prepare.

        Args:
            report: ``Desk.report`` for this actor.
            stop: Closed when the desk says so.
        """
        self._report = report
        self._stop = stop
        self._tally = Tally()
        self._notes: list[str] = []
        self._due = 0.0

    def skip(self, records: int) -> None:
        """Rows of earlier sessions: the driver has counted them."""

    def show(self, tally: Tally, seconds: float) -> None:
        """Tell the desk if it is time."""
        self._tally = tally
        if time.monotonic() >= self._due:
            self.clear()

    def say(self, text: str) -> None:
        """Send the user something along with the next counts."""
        self._notes.append(text)

    def clear(self) -> None:
        """Tell the desk now."""
        notes, self._notes = tuple(self._notes), []
        reason = self._report(self._tally, notes)
        self._stop.reason = self._stop.reason or reason
        self._due = time.monotonic() + REPORT_SECONDS


class Actor:
    """Decodes shards of a run, in a process that holds one decoder."""

    def __init__(self, number: int, team: int, folder: Path, desk: Any) -> None:
        """Prepare; nothing here can fail, so that what fails later keeps its own error.

        Args:
            number: Its own; the ones that replace it count on by ``team``.
            team: How many actors there are at a time.
            folder: Where the command was given, for paths that are relative to it.
            desk: Handle of the ``Desk``.
        """
        self._number = number
        self._team = team
        self._folder = folder
        self._desk = desk

    def decode(self, run: RunDirectory, bundle_path: Path, setup: Setup, opener: Opener) -> list[int]:
        """Decode shards until the desk has none.

        Args:
            run: The run directory.
            bundle_path: Its bundle.
            setup: How to decode.
            opener: Loads the models.

        Returns:
            Shards that were left out because another process has them.
        """
        os.chdir(self._folder)
        decoder = opener(Bundle.open(bundle_path), setup, seed=run.manifest.terms.seed)
        stop = Stop()
        facts = setup.to_json() | {"rank": self._number % self._team, "world": self._team} | machine()
        session = Session(run.sessions, facts, DeskDisplay(self._report, stop), decoder, None)
        return decode_shards(run, decoder, self._shards(), session, stop)

    def _shards(self) -> Iterator[int]:
        while (number := self._ask(self._desk.take, self._number)) is not None:
            yield number

    def _report(self, tally: Tally, notes: tuple[str, ...]) -> str | None:
        reason: str | None = self._ask(self._desk.report, self._number, tally, notes)
        return reason

    @staticmethod
    def _ask(method: Any, *arguments: object) -> Any:
        import ray

        return ray.get(method.remote(*arguments))
