"""Compiled engines of several sizes: small ones are open until a text outgrows them, and no row changes or is lost."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from eager_pair import eager_bundle
from replayed import TapeRecorder, recorder
from support import TableEngine
from tensorrt_gpu import put_engines, run_engines

from spectr_runtime import Bundle, Completion, Decoder, EngineError, Outcome, Plan, Request, SamplingParams
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.plan import PlanChoice

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
SIZES, CAPACITY = (64, 128, 192), 170
PLANS: list[PlanChoice] = [Plan.plain(), Plan("kseq", 2, 3), "auto"]
TREE = {"plain": 1, "kseq K=2 L=3": 7, "auto": 17}  # the nodes of the largest tree


def prompt(row: int, tokens: int) -> tuple[int, ...]:
    return tuple(1 + (row + place) % 4 for place in range(tokens))


def request(row: int, tokens: int, written: int) -> Request:
    params = SamplingParams(max_tokens=written, ignore_eos=True, logprobs=1 if row % 3 == 0 else None)
    return Request(str(row), prompt(row, tokens), params, echo=row % 6 == 0)


# Texts of 6 to 165 tokens: many end in the smallest engines, some outgrow them by what is written, some at once.
REQUESTS = [request(row, (5, 9, 30, 5, 100, 7, 70)[row % 7], (1, 20, 40, 90, 65)[row % 5]) for row in range(24)]


class Kept(TableEngine):
    """A table engine that takes note of itself, and of whether those before it are gone when it is opened.

    Attributes:
        opened: The rows and slots of all engines, in the order in which they were opened.
        budget: Rows times slots for which there is memory.
    """

    opened: list[tuple[int, int]]
    budget: int
    alive: list[weakref.ref[TableEngine]]

    def __init__(self, seed: int, *, vocabulary: int, rows: int, capacity: int) -> None:
        others = [ref for ref in self.alive if (one := ref()) is not None and one.cache.capacity != capacity]
        assert not others, "the memory of smaller engines is needed"
        self.opened.append((rows, capacity))
        if rows * capacity > self.budget:
            raise EngineError(f"There is no memory for a cache of {rows} rows: CUDA out of memory.")
        super().__init__(seed, vocabulary=vocabulary, rows=rows, capacity=capacity)
        self.alive.append(weakref.ref(self))


@pytest.fixture
def kept() -> type[Kept]:
    """A class that has opened no engine yet, and has memory for all."""
    return type("Fresh", (Kept,), {"opened": [], "alive": [], "budget": 10**9})


def decoded(decoder: Decoder, requests: Sequence[Request] = REQUESTS) -> dict[str, Outcome]:
    outcomes = list(decoder.generate(requests))
    assert len({one.id for one in outcomes}) == len(outcomes) == len(requests)
    return {one.id: one for one in outcomes}


def texts(outcomes: dict[str, Outcome]) -> dict[str, object]:
    """What may not depend on the sizes: all but how many rounds there were, which ``auto`` chooses by the clock."""
    assert all(isinstance(one, Completion) for one in outcomes.values())
    return {
        name: (one.token_ids, one.finish_reason, one.text, one.logprobs)
        for name, one in outcomes.items()
        if isinstance(one, Completion)
    }


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_texts_outgrow_engines_and_are_written_as_with_the_largest(
    open_decoder: OpenDecoder, kept: type[Kept], plan: PlanChoice, batch_size: int
) -> None:
    expected = texts(decoded(open_decoder(plan, batch_size=batch_size, capacity=CAPACITY)))
    decoder = open_decoder(plan, batch_size=batch_size, capacity=CAPACITY, sizes=SIZES, engine=kept)
    assert texts(decoded(decoder)) == expected
    engines = 1 if plan == Plan.plain() else 2
    assert kept.opened == [(batch_size, slots) for slots in SIZES for _ in range(engines)]
    assert decoder.batch_size == batch_size
    assert decoder._loop.pair.reader.counts is decoder.reading, "what was read before counts too"


@pytest.mark.parametrize("plan", PLANS[:2], ids=str)
def test_texts_outgrow_engines_whose_rounds_were_recorded(
    open_decoder: OpenDecoder, recorder: TapeRecorder, kept: type[Kept], plan: PlanChoice
) -> None:
    """Nothing of the recordings outlives the engines, and a text may be longer than the host knows."""
    expected = texts(decoded(open_decoder(plan, batch_size=5, capacity=CAPACITY, replays=False)))
    decoder = open_decoder(plan, batch_size=5, capacity=CAPACITY, sizes=SIZES, engine=kept)
    assert texts(decoded(decoder)) == expected
    assert {slots for _, slots in kept.opened} == {*SIZES}
    assert recorder.replayed > 20


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_no_engine_is_opened_twice_where_the_longest_text_is_known(
    open_decoder: OpenDecoder, kept: type[Kept], plan: PlanChoice
) -> None:
    longest = max(len(one.prompt) + one.params.max_tokens for one in REQUESTS)
    decoder = open_decoder(plan, capacity=CAPACITY, sizes=SIZES, engine=kept, longest=longest)
    decoded(decoder)
    assert {slots for _, slots in kept.opened} == {192}
    assert len(kept.opened) == (1 if plan == Plan.plain() else 2)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize(("beyond", "opened"), [(0, {64}), (1, {64, 128})], ids=["within", "beyond"])
def test_engines_are_used_to_their_last_slot(
    open_decoder: OpenDecoder, kept: type[Kept], plan: PlanChoice, beyond: int, opened: set[int]
) -> None:
    """A row needs slots for its text without the last token that it writes, and for a tree behind it.

    A round writes less than the tokens of its tree, so a row that may write so many more has a round in which it needs
    more.
    """
    written = 64 - TREE[str(plan)] + 1 - 5 + beyond * TREE[str(plan)]
    decoder = open_decoder(plan, batch_size=2, capacity=CAPACITY, sizes=SIZES, engine=kept)
    decoded(decoder, [request(1, 5, written), request(2, 5, 1)])
    assert {slots for _, slots in kept.opened} == opened


def test_a_long_prompt_skips_sizes_and_larger_engines_stay_open(open_decoder: OpenDecoder, kept: type[Kept]) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=2, capacity=CAPACITY, sizes=SIZES, engine=kept)
    for requests in ([request(0, 150, 3), request(1, 5, 5)], [request(2, 5, 5)]):
        decoded(decoder, requests)
    assert kept.opened == [(2, 64), (2, 192)]


def test_larger_engines_have_fewer_rows_where_memory_is_short(
    open_decoder: OpenDecoder, kept: type[Kept], caplog: pytest.LogCaptureFixture
) -> None:
    expected = texts(decoded(open_decoder(Plan.plain(), batch_size=8, capacity=CAPACITY)))
    kept.budget = 8 * 64
    # Under this name PyTorch knows the CPU, but the decoder takes it for a device whose memory runs out.
    decoder = open_decoder(Plan.plain(), batch_size=8, capacity=CAPACITY, sizes=SIZES, engine=kept, device="cpu:0")
    with caplog.at_level(logging.WARNING):
        assert texts(decoded(decoder)) == expected
    assert kept.opened == [(8, 64), (8, 128), (4, 128), (4, 192), (2, 192)]
    assert decoder.batch_size == 2
    assert [record.message for record in caplog.records] == [
        "No memory for 8 rows; going on with 4.",
        "No memory for 4 rows; going on with 2.",
    ]


def test_other_errors_of_larger_engines_are_raised(open_decoder: OpenDecoder, kept: type[Kept]) -> None:
    class Broken(kept):  # type: ignore[valid-type, misc]
        def __init__(self, *arguments: int, capacity: int, **sizes: int) -> None:
            if capacity > 64:
                raise EngineError("The engine is not the one that was compiled.")
            super().__init__(*arguments, capacity=capacity, **sizes)

    decoder = open_decoder(Plan.plain(), capacity=CAPACITY, sizes=SIZES, engine=Broken, device="cpu:0")
    with pytest.raises(EngineError, match="not the one that was compiled"):
        decoded(decoder)


def test_where_larger_engines_do_not_open_the_next_call_goes_on_with_small_ones(
    open_decoder: OpenDecoder, kept: type[Kept]
) -> None:
    short = [request(row, 5, 9) for row in range(4)]
    expected = texts(decoded(open_decoder(Plan.plain(), capacity=CAPACITY), short))
    kept.budget = 2 * 64
    decoder = open_decoder(Plan.plain(), batch_size=2, capacity=CAPACITY, sizes=SIZES, engine=kept, device="cpu:0")
    with pytest.raises(EngineError, match="no memory for a cache of 1 rows"):
        decoded(decoder, [request(0, 150, 3)])
    assert texts(decoded(decoder, short)) == expected
    assert kept.opened == [(2, 64), (2, 192), (1, 192), (1, 64)]
    assert decoder._loop.pair.reader.counts is decoder.reading


ROWS = 3


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle with engines of all sizes, on a machine whose TensorRT runs them in PyTorch."""
    made = eager_bundle(tmp_path / "pair")
    run_engines(put_engines(made, SIZES, rows=ROWS, tree_tokens=9), monkeypatch)
    return made


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 4)], ids=str)
def test_a_bundle_is_decoded_and_scored_with_engines_of_three_sizes(bundle: Bundle, plan: Plan) -> None:
    """Texts are the torch engine's, whose caches have the whole capacity, and both score them alike."""
    params = {"ignore_eos": True, "temperature": 0.8}
    requests = [
        Request(str(row), prompt(row, 3 + 11 * row), SamplingParams(max_tokens=12 * (1 + row % 5), **params))
        for row in range(7)
    ]
    expected = texts(decoded(Decoder(bundle, plan=plan, backend="torch", batch_size=ROWS), requests))
    decoder = Decoder(bundle, plan=plan, backend="tensorrt-rtx", batch_size=ROWS)
    sizes = {decoder._loop.pair.target.cache.capacity}
    outcomes = {}
    for outcome in decoder.generate(requests):
        sizes.add(decoder._loop.pair.target.cache.capacity)
        outcomes[outcome.id] = outcome
    assert texts(outcomes) == expected
    assert sizes == {64, 128}, "no text needs the largest"
    written = [Written(one, outcomes[one.id].token_ids) for one in requests]
    scores = [
        [
            score.tokens
            for score in Scorer(bundle, backend=backend, device="cpu", batch_size=ROWS, plan=plan).score(written)
        ]
        for backend in ("torch", "tensorrt-rtx")
    ]
    for one, other in zip(*scores, strict=True):
        assert [token.probability for token in one] == pytest.approx([token.probability for token in other], rel=1e-4)


def test_engines_that_are_too_small_for_the_bundle_are_refused_when_the_first_is_opened(bundle: Bundle) -> None:
    for path in bundle.path.glob("*/engines/*-192-slots.json"):
        path.unlink()
    with pytest.raises(EngineError, match=r"A row of the engine has 128 slots; bundle and plan need 192\."):
        Decoder(bundle, plan=Plan("kseq", 2, 4), backend="tensorrt-rtx", batch_size=ROWS)
    with pytest.raises(EngineError, match="compiled for up to 3 rows; 4 are asked for"):
        Decoder(bundle, plan=Plan("kseq", 2, 4), backend="tensorrt-rtx", batch_size=4)


@pytest.mark.parametrize("plan", [Plan("kseq", 2, 5), Plan("kseq", 5, 2)], ids=str)
def test_a_tree_that_no_call_takes_is_refused_when_the_engines_are_opened(bundle: Bundle, plan: Plan) -> None:
    """Its slots fit: all are rounded up to the same number."""
    words = "compiled for trees of up to 9 tokens; the plan has one of 11"
    with pytest.raises(EngineError, match=words) as caught:
        Decoder(bundle, plan=plan, backend="tensorrt-rtx", batch_size=ROWS)
    assert caught.value.hint == (
        "Use --plan plain or a fixed plan of fewer drafts, or compile the bundle with --tree-tokens 11."
    )
