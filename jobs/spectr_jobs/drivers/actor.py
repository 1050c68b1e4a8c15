"""An actor: a process of a Ray cluster that takes shards from the desk and decodes them, until no shard is left."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from spectr_jobs.drivers.shards import Chooser, Part, session_facts, settle_batch
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.models import RunDecoder
from spectr_jobs.work.session import Session
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_jobs.work.worker import Skipped, decode_shards
from spectr_runtime.bundle import Bundle

REPORT_SECONDS = 0.5  # between two reports to the desk, at least


class Opener(Protocol):
    """A function that loads the models of a bundle: ``models.open_decoder``, or a test's stand-in for it."""

    def __call__(self, bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> RunDecoder:
        """Open a decoder for a run's seed and date."""
        ...


class Tools(NamedTuple):
    """What an actor opens models with."""

    choose_batch: Chooser
    open_decoder: Opener


class DeskDisplay:
    """The ``Display`` of an actor's session: it sends counts and messages to the desk, and receives the order to stop.

    Args:
        report: ``Desk.report`` for this actor.
        stop: The actor's stop, whose reason is set when the desk gives one.
    """

    def __init__(self, report: Callable[[Tally, tuple[str, ...]], str | None], stop: Stop) -> None:
        self._report = report
        self._stop = stop
        self._tally = Tally()
        self._notes: list[str] = []
        self._due = 0.0

    def skip(self, records: int) -> None:
        """Do nothing: the driver counts the rows of earlier sessions."""

    def show(self, tally: Tally, seconds: float) -> None:
        """Keep the counts, and report them to the desk if the last report is old enough."""
        self._tally = tally
        if time.monotonic() >= self._due:
            self.clear()

    def say(self, text: str) -> None:
        """Keep a message to the user for the next report."""
        self._notes.append(text)

    def clear(self) -> None:
        """Report counts and messages to the desk now."""
        notes, self._notes = tuple(self._notes), []
        reason = self._report(self._tally, notes)
        self._stop.reason = self._stop.reason or reason
        self._due = time.monotonic() + REPORT_SECONDS


class Actor:
    """Decodes shards of a run, in a process that holds one decoder.

    The models are loaded by ``decode``: Ray reports an error of a constructor as the loss of the actor, and the error
    itself would be lost.

    Args:
        number: The actor's number. The actor that replaces it has the number ``number + team``, and so on.
        team: Number of actors at a time.
        folder: Working directory of the command, from which relative paths start.
        desk: Handle of the ``Desk``.
    """

    def __init__(self, number: int, team: int, folder: Path, desk: Any) -> None:
        self._number = number
        self._team = team
        self._folder = folder
        self._desk = desk

    def decode(self, run: RunDirectory, bundle_path: Path, setup: Setup, part: Part, tools: Tools) -> Skipped:
        """Decode shards until the desk hands out no more.

        Args:
            run: The run directory.
            bundle_path: Path of the run's bundle.
            setup: The setup to decode with.
            part: The shards that all actors share.
            tools: Chooses the batch size, and loads the models.

        Returns:
            The shards that were not decoded.
        """
        os.chdir(self._folder)
        bundle, stop = Bundle.open(bundle_path), Stop()
        display = DeskDisplay(self._report, stop)
        setup, reason = settle_batch(run, bundle, setup, part, tools.choose_batch)
        if reason:
            display.say(f"actor {self._number}: {reason}")
        decoder = tools.open_decoder(bundle, setup, seed=run.manifest.terms.seed, date=run.manifest.date)
        facts = session_facts(setup, reason, self._number % self._team, self._team)
        session = Session(run.sessions, facts, display, decoder, None)
        skipped = Skipped()
        decode_shards(run, decoder, self._shards(), session, stop, skipped)
        return skipped

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
