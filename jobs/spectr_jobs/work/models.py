"""What a process opens of a bundle: decoder, scorer, tokenizer, and the memory that they take.

Each function imports what it needs when it is called, since that loads torch or transformers. Tests put stand-ins in
the place of these functions, so callers reach them through the module: ``models.open_decoder(...)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

from spectr_jobs.work.setup import Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.rows.request import Outcome, Prompt, Request
from spectr_runtime.rows.score import Score, Written
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import Timing

if TYPE_CHECKING:
    from spectr_runtime.planning.footprint import Footprint


class RunDecoder(Protocol):
    """What a run needs of ``spectr_runtime.Decoder``."""

    timing: Timing

    @property
    def rounds(self) -> Mapping[Plan, int]:
        """Rounds of each plan so far."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests, pulled as rows become free, and yield outcomes as they finish, in any order."""
        ...


class RunScorer(Protocol):
    """What an audit needs of ``spectr_runtime.scorer.Scorer``."""

    tolerance: float

    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        """Score completions, in their order."""
        ...


class Encoder(Protocol):
    """What a dry run needs of the tokenizer."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt."""
        ...


def open_decoder(bundle: Bundle, setup: Setup, *, seed: int) -> RunDecoder:
    """Load the models of a bundle for decoding with a run's seed."""
    from spectr_runtime.decoder import Decoder

    return Decoder(
        bundle,
        plan=setup.plan,
        batch_size=setup.batch_size,
        seed=seed,
        backend=setup.backend,
        device=setup.device,
    )


def open_scorer(bundle: Bundle, setup: Setup) -> RunScorer:
    """Load the models of a bundle for an audit."""
    from spectr_runtime.scorer import Scorer

    return Scorer(bundle, backend=setup.backend, device=setup.device, batch_size=setup.batch_size, plan=setup.plan)


def open_tokenizer(bundle: Bundle) -> Encoder:
    """Load the tokenizer of a bundle."""
    from spectr_runtime.rows.tokenizer import Tokenizer

    return Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size)


def footprint(bundle: Bundle, setup: Setup) -> Footprint:
    """Return the memory that decoding takes."""
    from spectr_runtime.planning.footprint import Footprint

    return Footprint.of(bundle, setup.plan)


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a device; None where the system does not tell."""
    from spectr_runtime.planning.footprint import free_memory as measure

    return measure(device)
