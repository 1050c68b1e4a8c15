"""Calls of one shape: the rows are those of other calls, and nothing of the batch shows in a shape."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from support import TableEngine

from spectr_runtime import Completion, Decoder, EngineError, Plan, Request, SamplingParams, UsageError
from spectr_runtime.contract import Call
from spectr_runtime.contract.mask import aligned
from spectr_runtime.planning.calibration import cache_file
from spectr_runtime.speculation.plan import PlanChoice

OpenDecoder = Callable[..., Decoder]
CAPACITY, CHUNK, ROWS, TOKENS = 48, 4, 3, 17
PLANS: list[PlanChoice] = [Plan.plain(), Plan("race", 2, 2), Plan("kseq", 2, 3), Plan("single", 1, 4), "auto"]
LENGTHS = (1, 2, CHUNK, CHUNK + 1, CHUNK + 2, 4 * CHUNK, 4 * CHUNK + 1, 39, CAPACITY - 1)
SHARED = (1, 3, 2, 2, 4) * 8
KINDS = (
    {},
    {"temperature": 0.7, "top_p": 0.9, "logprobs": 2},
    {"presence_penalty": 0.8, "repetition_penalty": 1.4},
    {"temperature": 0.0, "logprobs": 0},
)


def requests() -> list[Request]:
    """Prompts of all lengths, with a part that they share and without, which write up to the capacity."""
    chosen, found = random.Random(0), []
    for index, length in enumerate(LENGTHS * 2):
        text = (*SHARED, 1, 2, 3, 4, 1, 3, 4, 2) if index < len(LENGTHS) else tuple(chosen.choices(range(1, 5), k=48))
        params = SamplingParams(max_tokens=CAPACITY - length, ignore_eos=True, **KINDS[index % 4])  # type: ignore[arg-type]
        found.append(Request(str(index), (*text[: length - 1], 1 + index % 4), params))
    return found


def decoded(decoder: Decoder, asked: Sequence[Request]) -> dict[str, Completion]:
    """The rows, without what the automatic plan drafted, which depends on the clock."""
    found = {}
    for one in decoder.generate(asked):
        assert isinstance(one, Completion), one
        found[one.id] = one
    return found


def written(rows: dict[str, Completion]) -> dict[str, object]:
    return {key: (one.token_ids, one.finish_reason, one.logprobs) for key, one in rows.items()}


def shapes(calls: Sequence[Call]) -> set[tuple[int, ...]]:
    return {(*call.input_ids_BT.shape, call.attention_mask_B1TL.shape[-1]) for call in calls}


READING = (1, CHUNK, aligned(CAPACITY + TOKENS))
ROUND = (ROWS, TOKENS, aligned(CAPACITY - 1 + TOKENS))


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_rows_are_those_of_other_calls_and_the_target_sees_two_shapes(
    open_decoder: OpenDecoder, plan: PlanChoice
) -> None:
    asked = requests()
    free = open_decoder(plan, batch_size=ROWS)
    expected = written(decoded(free, asked))
    assert len(shapes(free._loop.pair.target.calls)) > 3, "calls differ where nothing is asked for"
    for order in (asked, asked[::-1], random.Random(1).sample(asked, 5)):
        decoder = open_decoder(plan, batch_size=ROWS, call_tokens=TOKENS)
        found = written(decoded(decoder, order))
        assert found == {one.id: expected[one.id] for one in order}
        assert shapes(decoder._loop.pair.target.calls) == {READING, ROUND}


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3)], ids=str)
def test_a_last_row_alone_has_the_shape_of_a_full_batch(open_decoder: OpenDecoder, plan: Plan) -> None:
    decoder = open_decoder(plan, batch_size=ROWS, call_tokens=TOKENS)
    decoded(decoder, [Request("alone", (1, 3), SamplingParams(max_tokens=5))])
    assert shapes(decoder._loop.pair.target.calls) == {READING, ROUND}


def test_what_is_computed_for_some_rows_is_computed_for_as_many_as_there_are(open_decoder: OpenDecoder) -> None:
    """The law of a truncated row, its changed logits and its log-probabilities have one shape too."""
    decoder = open_decoder(Plan.plain(), batch_size=ROWS, call_tokens=TOKENS)
    sizes: set[tuple[int, int, int]] = set()
    launch = decoder._loop._turns._launcher.launch

    def launched(shape, *rest):
        sizes.add((shape.truncated, shape.adjusted, shape.scored))
        return launch(shape, *rest)

    decoder._loop._turns._launcher.launch = launched
    decoded(decoder, requests())
    assert {size for sizes_of_a_round in sizes for size in sizes_of_a_round} == {0, ROWS}


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 1, 3), Plan("kseq", 2, 2)], ids=str)
@pytest.mark.parametrize("prefix_tokens", [0, None])
def test_calls_begin_at_multiples_of_their_tokens_and_read_nothing_twice(
    open_decoder: OpenDecoder, plan: Plan, prefix_tokens: int | None
) -> None:
    asked = requests()
    sizes = {"batch_size": ROWS, "tokens_per_call": 19, "prefix_tokens": prefix_tokens}  # calls of 16 tokens
    decoder = open_decoder(plan, call_tokens=TOKENS, **sizes)
    assert written(decoded(decoder, asked)) == written(decoded(open_decoder(plan, **sizes), asked))
    reading = [call for call in decoder._loop.pair.target.calls if len(call.input_ids_BT) == 1]
    assert {call.input_ids_BT.shape[1] for call in reading} == {16}
    assert all(int(call.write_index_B) % 16 == 0 for call in reading)
    assert (decoder.reading.copied > 0) == (prefix_tokens is None)
    if prefix_tokens == 0:
        assert len(reading) == sum(-(-(len(one.prompt) - 1) // 16) for one in asked)


def test_a_text_that_is_read_in_parts_behind_a_copy_costs_one_call_a_part(open_decoder: OpenDecoder) -> None:
    """A copy of 16 tokens ends within a call of 32, and so would every part after it."""
    begin, rest = SHARED[:16], tuple(random.Random(0).choices(range(1, 5), k=134))
    prompts = ((*begin, 1, 2), (2, 1), (*begin, *rest))
    asked = [
        Request(str(row), prompt, SamplingParams(max_tokens=(90, 3, 5)[row], ignore_eos=True))
        for row, prompt in enumerate(prompts)
    ]
    sizes = {"batch_size": 2, "tokens_per_call": 32, "capacity": 160}
    decoder = open_decoder(Plan.plain(), call_tokens=1, **sizes)
    assert written(decoded(decoder, asked)) == written(decoded(open_decoder(Plan.plain(), **sizes), asked))
    assert decoder.reading.copied == 16
    calls = [call for call in decoder._loop.pair.target.calls if call.input_ids_BT.shape == (1, 32)]
    assert [int(call.write_index_B) for call in calls] == [0, 0, 0, 32, 64, 96, 128]


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), "auto"], ids=str)
@pytest.mark.parametrize("max_tokens", [0, 1, 6])
def test_prompts_are_scored_in_the_one_shape(open_decoder: OpenDecoder, plan: PlanChoice, max_tokens: int) -> None:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.5, logprobs=2, ignore_eos=True)
    prompts = ((1,), (2, 1), SHARED[:16], SHARED[:17], SHARED)
    asked = [Request(str(row), prompt, params, echo=True) for row, prompt in enumerate(prompts)]
    asked += [Request(f"other {row}", (2, 3), SamplingParams(max_tokens=9)) for row in range(3)]
    decoder = open_decoder(plan, batch_size=ROWS, call_tokens=TOKENS)
    found, expected = (decoded(one, asked) for one in (decoder, open_decoder(plan, batch_size=ROWS)))
    for key, one in expected.items():
        assert found[key].token_ids == one.token_ids
        for mine, theirs in zip(found[key].logprobs or (), one.logprobs or (), strict=True):
            assert mine.token_id == theirs.token_id
            assert mine.logprob == (None if theirs.logprob is None else pytest.approx(theirs.logprob, abs=1e-5))
    assert shapes(decoder._loop.pair.target.calls) == {READING, ROUND}


def test_what_was_read_in_calls_of_another_shape_is_not_handed_on(open_decoder: OpenDecoder) -> None:
    """Compiled engines return the logits of few tokens, so that they score prompts in smaller calls than they read."""
    asked = [
        Request(str(row), (*SHARED, 1 + row), SamplingParams(max_tokens=4, logprobs=0), echo=row == 0)
        for row in range(2)
    ]
    for scored, copied in ((CHUNK, 32), (CHUNK - 1, 0)):
        decoder = open_decoder(Plan.plain(), batch_size=1, call_tokens=1)
        reader = decoder._loop.pair.reader
        object.__setattr__(reader._calls, "scored", scored)
        decoded(decoder, asked)
        assert decoder.reading.copied == copied


def test_rows_stay_where_they_are(open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds are no smaller without the rows that have ended, so nothing is gained by closing ranks."""
    decoder = open_decoder(Plan.plain(), batch_size=ROWS, call_tokens=TOKENS)
    monkeypatch.setattr(decoder._loop.pair, "move", lambda *row: pytest.fail("a row was moved"))
    decoded(decoder, [Request(str(row), (1, 3), SamplingParams(max_tokens=9 - 3 * row)) for row in range(3)][::-1])


@pytest.mark.parametrize(
    ("plan", "tokens", "words"),
    [
        (Plan("kseq", 4, 4), 2, "Calls of 2 tokens are too small for the plan kseq K=4 L=4: its tree has 17, "),
        (Plan.plain(), 257, "Calls of 257 tokens are too large: a round feeds at most 256."),
        (Plan.plain(), 0, "Calls of 0 tokens are too small for the plan plain: its tree has 1, "),
        ("auto", 16, "Calls of 16 tokens are too small for the plan race K=4 L=4: its tree has 17, "),
    ],
)
def test_calls_that_the_trees_do_not_fit_into_are_refused(
    open_decoder: OpenDecoder, plan: PlanChoice, tokens: int, words: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        open_decoder(plan, call_tokens=tokens)
    needed = 256 if tokens > 256 else 1 if plan == Plan.plain() else 17
    assert refused.value.hint == f"Use --call-shape ROWSx{needed}, or call_tokens={needed} in Python."


def test_the_number_of_rows_does_not_change_when_memory_runs_out(open_decoder: OpenDecoder) -> None:
    class FullEngine(TableEngine):
        def forward(self, call: Call) -> torch.Tensor:
            raise EngineError("PyTorch failed in a call: CUDA out of memory.")

    decoder = open_decoder(Plan.plain(), batch_size=8, call_tokens=5, engine=FullEngine)
    with pytest.raises(EngineError, match="There is no memory for 8 rows, and with calls of one shape") as failed:
        decoded(decoder, requests())
    assert failed.value.hint == "Use a --call-shape of fewer ROWS, or a smaller batch_size in Python."
    assert decoder.batch_size == 8


def test_what_rounds_of_one_shape_cost_is_kept_apart(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "costs"))
    kept: list[str] = []
    for call_tokens in (None, 17, 20):
        decoder = open_decoder("auto", call_tokens=call_tokens)
        bundle = decoder._loop._keep_costs.args[0]
        decoded(decoder, requests()[:4])
        file = cache_file(bundle, "onnxruntime", torch.device("cpu"))
        assert file is not None
        kept.append(" ".join(sorted(path.stem.removeprefix(file.stem) for path in file.parent.iterdir())))
    assert kept == ["", " -calls-of-17-tokens", " -calls-of-17-tokens -calls-of-20-tokens"]
