"""The models of a bundle: functions that open its decoder, scorer and tokenizer, and compute the memory they need.

Each function imports the runtime's modules when it is called, since they load torch or transformers. Tests replace
these functions by stand-ins, so callers reach them through the module: ``models.open_decoder(...)``.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from spectr_jobs.work.load import Encoder, Load
from spectr_jobs.work.setup import Setup
from spectr_runtime.backends import FLAVOURS
from spectr_runtime.bundle import Bundle
from spectr_runtime.reading.counts import Reading
from spectr_runtime.rows.request import Outcome, Request
from spectr_runtime.rows.score import Score, Written
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import PlainTime, Timing

if TYPE_CHECKING:
    from spectr_runtime.planning.batch import BatchSize
    from spectr_runtime.planning.footprint import Footprint


Piece = Callable[[int], tuple[str, bytes]]
"""Returns the text of a token, and its bytes."""


class RunDecoder(Protocol):
    """The part of ``spectr_runtime.Decoder`` that a run uses."""

    timing: Timing
    reading: Reading
    plain: PlainTime
    piece: Piece

    @property
    def rounds(self) -> Mapping[Plan, int]:
        """Number of rounds of each plan so far."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Take requests one by one as rows become free, and yield outcomes as they finish, in any order."""
        ...

    def run(self, requests: Iterable[Request], take: Callable[[Outcome], None], stopped: Callable[[], bool]) -> None:
        """Do the same with ``take`` for the outcomes, until it is to stop; both work on one thread of their own."""
        ...


class RunScorer(Protocol):
    """The part of ``spectr_runtime.scorer.Scorer`` that an audit uses."""

    tolerance: float

    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        """Yield the scores of completions, in their order."""
        ...


def open_decoder(bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> RunDecoder:
    """Load the models of a bundle for decoding, with a run's seed and date."""
    from spectr_runtime.decoder import Decoder

    return Decoder(
        bundle,
        plan=setup.plan,
        batch_size=setup.rows,
        seed=seed,
        backend=setup.backend,
        device=setup.device,
        date=date,
        longest=setup.longest,
        corpus=setup.corpus,
        call_tokens=setup.call_tokens,
    )


def open_scorer(bundle: Bundle, setup: Setup, *, date: datetime.date) -> RunScorer:
    """Load the models of a bundle for an audit of a run with this date."""
    from spectr_runtime.scorer import Scorer

    return Scorer(
        bundle,
        backend=setup.backend,
        device=setup.device,
        batch_size=setup.rows,
        plan=setup.plan,
        date=date,
    )


def open_tokenizer(bundle: Bundle, *, date: datetime.date) -> Encoder:
    """Load the tokenizer of a bundle for a run with this date."""
    from spectr_runtime.rows.text.tokenizer import Tokenizer

    return Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size, date)


def choose_batch(bundle: Bundle, setup: Setup, load: Load, *, date: datetime.date, processes: int) -> BatchSize:
    """Return how many rows a process decodes together, with the reason.

    Args:
        bundle: The bundle.
        setup: The setup, whose batch size is not read.
        load: What the process is to decode.
        date: The run's date.
        processes: How many processes of the run may share this machine.

    Raises:
        SpectrError: Not one row fits into the memory, or the models cannot be opened.
    """
    from spectr_runtime.planning.batch import Demand
    from spectr_runtime.planning.fitting import fit

    lengths = load.lengths(open_tokenizer(bundle, date=date), bundle.manifest.limits.capacity)
    demand = Demand(max(load.completions, 1), *lengths)
    size = fit(bundle, setup.plan, demand, backend=setup.backend, device=setup.device, processes=processes)
    return dataclasses.replace(size, longest=lengths.longest)


def footprint(bundle: Bundle, setup: Setup, longest: int) -> Footprint:
    """Return the memory that decoding texts of up to so many tokens needs."""
    from spectr_runtime.planning.compiled import compiled_sizes
    from spectr_runtime.planning.footprint import Footprint

    if setup.backend in FLAVOURS:
        _, longest = compiled_sizes(bundle, setup.plan, setup.backend, setup.device, longest, setup.rows)
    return Footprint.of(bundle, setup.plan, setup.backend, longest, setup.device, setup.call_tokens)


def free_memory(device: str) -> int | None:
    """Return the number of free bytes on a device; None if the system does not report it."""
    from spectr_runtime.memory import free_memory as measure

    return measure(device)
