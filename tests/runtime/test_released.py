"""A decoder that is dropped takes its models with it at once, and does not wait for Python's collector of cycles."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
from replayed import TapeRecorder, recorder

from spectr_runtime import Decoder, Plan, Request, SamplingParams
from spectr_runtime.speculation.plan import AUTO, PlanChoice

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
REQUESTS = [Request(str(row), (1, 3, 2), SamplingParams(max_tokens=4 + row)) for row in range(6)]


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def generate(decoder: Decoder) -> None:
    assert len(list(decoder.generate(REQUESTS))) == len(REQUESTS)


def run(decoder: Decoder) -> None:
    decoder.run(REQUESTS, lambda outcome: None)


def abandon(decoder: Decoder) -> None:
    next(decoder.generate(REQUESTS))


@pytest.mark.parametrize("use", [generate, run, abandon], ids=lambda use: use.__name__)
@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), AUTO], ids=str)
def test_a_decoder_that_is_dropped_is_gone(
    open_decoder: OpenDecoder, plan: PlanChoice, use: Callable[[Decoder], None]
) -> None:
    decoder = open_decoder(plan)
    use(decoder)
    gone = weakref.ref(decoder)
    del decoder
    assert gone() is None


@pytest.mark.parametrize("use", [generate, run], ids=lambda use: use.__name__)
def test_a_decoder_whose_rounds_were_replayed_is_gone(
    open_decoder: OpenDecoder, recorder: TapeRecorder, use: Callable[[Decoder], None]
) -> None:
    decoder = open_decoder(Plan("race", 2, 3))
    use(decoder)
    assert recorder.replayed
    gone = weakref.ref(decoder)
    del decoder
    assert gone() is None


def test_requests_are_let_go_when_they_have_ended_and_a_call_that_is_closed_late_leaves_the_next_its_own(
    open_decoder: OpenDecoder,
) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=2)

    def requests() -> Iterator[Request]:
        yield from REQUESTS

    before, given = decoder.generate(REQUESTS), requests()
    next(before)
    after = decoder.generate(given)
    ended = [next(after).id]
    before.close()
    ended += [outcome.id for outcome in after]
    assert sorted(ended) == [request.id for request in REQUESTS]
    gone = weakref.ref(given)
    del after, given
    assert gone() is None
