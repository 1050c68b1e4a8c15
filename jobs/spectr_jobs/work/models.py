"""The models of a bundle: functions that open its decoder, scorer and tokenizer, and compute the memory they need.

Each function imports the runtime's modules when it is called, since they load torch or transformers. Tests replace
these functions by stand-ins, so callers reach them through the module: ``models.open_decoder(...)``.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from spectr_jobs.work.setup import Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.rows.request import Outcome, Prompt, Request
from spectr_runtime.rows.score import Score, Written
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.reading import Reading
from spectr_runtime.speculation.timing import Timing

if TYPE_CHECKING:
    from spectr_runtime.planning.footprint import Footprint


class RunDecoder(Protocol):
    """The part of ``spectr_runtime.Decoder`` that a run uses."""

    timing: Timing
    reading: Reading

    @property
    def rounds(self) -> Mapping[Plan, int]:
        """Number of rounds of each plan so far."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Take requests one by one as rows become free, and yield outcomes as they finish, in any order."""
        ...


class RunScorer(Protocol):
    """The part of ``spectr_runtime.scorer.Scorer`` that an audit uses."""

    tolerance: float

    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        """Yield the scores of completions, in their order."""
        ...


class Encoder(Protocol):
    """The part of the tokenizer that a dry run uses."""

    def encode(self, prompt: Prompt, most: int) -> tuple[int, ...]:
        """Return the token ids of a prompt, at most so many; a longer one is refused."""
        ...


def open_decoder(bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> RunDecoder:
    """Load the models of a bundle for decoding, with a run's seed and date."""
    from spectr_runtime.decoder import Decoder

    return Decoder(
        bundle,
        plan=setup.plan,
        batch_size=setup.batch_size,
        seed=seed,
        backend=setup.backend,
        device=setup.device,
        date=date,
    )


def open_scorer(bundle: Bundle, setup: Setup, *, date: datetime.date) -> RunScorer:
    """Load the models of a bundle for an audit of a run with this date."""
    from spectr_runtime.scorer import Scorer

    return Scorer(
        bundle,
        backend=setup.backend,
        device=setup.device,
        batch_size=setup.batch_size,
        plan=setup.plan,
        date=date,
    )


def open_tokenizer(bundle: Bundle, *, date: datetime.date) -> Encoder:
    """Load the tokenizer of a bundle for a run with this date."""
    from spectr_runtime.rows.text.tokenizer import Tokenizer

    return Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size, date)


def footprint(bundle: Bundle, setup: Setup) -> Footprint:
    """Return the memory that decoding needs."""
    from spectr_runtime.planning.footprint import Footprint

    return Footprint.of(bundle, setup.plan)


def free_memory(device: str) -> int | None:
    """Return the number of free bytes on a device; None if the system does not report it."""
    from spectr_runtime.planning.footprint import free_memory as measure

    return measure(device)
