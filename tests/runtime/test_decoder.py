"""The decoder over table models: laws, independence of the batch, stops, failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import TableEngine, chi_square_p_value, target_law

from spectr_runtime import Completion, Decoder, Failure, Plan, Request, SamplingParams
from spectr_runtime.rows.admission import AHEAD
from spectr_select import RULES

OpenDecoder = Callable[..., Decoder]
PLANS = [Plan.plain(), Plan("single", 1, 3), Plan("kseq", 3, 2), Plan("kseq", 2, 4)]
PROMPT = (1, 3, 2)


def by_id(decoder: Decoder, requests: list[Request]) -> dict[str, Completion]:
    outcomes = list(decoder.generate(requests))
    assert len(outcomes) == len(requests)
    assert all(isinstance(outcome, Completion) for outcome in outcomes)
    return {outcome.id: outcome for outcome in outcomes if isinstance(outcome, Completion)}


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_first_three_tokens_follow_the_target(open_decoder: OpenDecoder, plan: Plan, temperature: float) -> None:
    rows = 5_000
    decoder = open_decoder(plan, batch_size=64)
    params = SamplingParams(max_tokens=3, temperature=temperature, ignore_eos=True)
    requests = (Request(f"row {row}", PROMPT, params) for row in range(rows))
    counts = torch.zeros(125)
    for outcome in decoder.generate(requests):
        assert isinstance(outcome, Completion)
        first, second, third = outcome.token_ids
        counts[25 * first + 5 * second + third] += 1
    law = target_law(PROMPT, 3, temperature)
    assert chi_square_p_value(counts, law) > 1e-9
    wrong = target_law(PROMPT, 3, temperature * 1.25)
    assert chi_square_p_value(counts, wrong) < 1e-9, "the test must be able to tell a wrong law"


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_decodes_the_targets_law(open_decoder: OpenDecoder, rule: str) -> None:
    plan = Plan(rule, 1 if RULES[rule].trees == "chain" else 3, 2)
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    requests = (Request(f"row {row}", PROMPT, params) for row in range(2_500))
    counts = torch.zeros(125)
    for outcome in open_decoder(plan, batch_size=64).generate(requests):
        assert isinstance(outcome, Completion)
        first, second, third = outcome.token_ids
        counts[25 * first + 5 * second + third] += 1
    assert chi_square_p_value(counts, target_law(PROMPT, 3, 1.0)) > 1e-9
    assert chi_square_p_value(counts, target_law(PROMPT, 3, 1.4)) < 1e-9, "the test must be able to tell a wrong law"


def test_a_race_writes_the_same_text_whatever_the_plan(open_decoder: OpenDecoder) -> None:
    requests = [Request(str(row), PROMPT, SamplingParams(max_tokens=30)) for row in range(10)]
    texts = [
        [one.token_ids for _, one in sorted(by_id(open_decoder(plan, batch_size=size), requests).items())]
        for plan, size in ((Plan("race", 1, 1), 1), (Plan("race", 3, 2), 4), (Plan("race", 2, 5), 10))
    ]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_row_does_not_depend_on_its_batch(open_decoder: OpenDecoder, plan: Plan) -> None:
    shuffler = random.Random(5)
    requests = [
        Request(
            f"row {row}",
            tuple(shuffler.randrange(1, 5) for _ in range(1 + row % 11)),
            SamplingParams(1 + row % 17, (0.0, 0.7, 1.0)[row % 3], top_k=row % 5, top_p=(1.0, 0.8)[row % 2]),
        )
        for row in range(40)
    ]
    alone = by_id(open_decoder(plan, batch_size=1), requests)
    for batch_size in (3, 8):
        shuffler.shuffle(requests)
        together = by_id(open_decoder(plan, batch_size=batch_size), requests)
        assert {name: one.token_ids for name, one in together.items()} == {
            name: one.token_ids for name, one in alone.items()
        }


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_greedy_is_the_argmax_chain(open_decoder: OpenDecoder, plan: Plan) -> None:
    engine = TableEngine(2)
    text = list(PROMPT)
    for _ in range(20):
        text.append(int(engine.logits_after(tuple(text)).argmax()))
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    (completion,) = by_id(open_decoder(plan), [Request("a", PROMPT, params)]).values()
    assert list(completion.token_ids) == text[len(PROMPT) :]


def test_run_seed_id_and_own_seed_choose_the_noise(open_decoder: OpenDecoder) -> None:
    def tokens(seed: int, name: str, own: int | None = None) -> tuple[int, ...]:
        request = Request(name, PROMPT, SamplingParams(max_tokens=30, seed=own, ignore_eos=True))
        return by_id(open_decoder(PLANS[2], seed=seed), [request])[name].token_ids

    assert tokens(0, "a") == tokens(0, "a")
    assert tokens(0, "a") != tokens(1, "a")
    assert tokens(0, "a") != tokens(0, "b")
    assert tokens(0, "a", own=7) == tokens(1, "a", own=7) != tokens(0, "a")


def test_an_own_seed_fixes_the_text_whatever_the_id(open_decoder: OpenDecoder) -> None:
    def tokens(name: str, prompt: tuple[int, ...] = PROMPT, **numbers: int) -> tuple[int, ...]:
        request = Request(name, prompt, SamplingParams(max_tokens=30, seed=42, ignore_eos=True), **numbers)
        return by_id(open_decoder(PLANS[2]), [request])[name].token_ids

    assert tokens("a") == tokens("b") == tokens("c", choice=3)
    # Two samples of one prompt, and equal texts before two prompts, have noise of their own.
    assert tokens("a") != tokens("a", choice=1, sample=1)
    assert len({tokens("a", (first, *PROMPT)) for first in range(1, 5)}) == 4


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_rows_end_at_the_end_token_or_the_limit(open_decoder: OpenDecoder, plan: Plan) -> None:
    requests = [Request(str(row), PROMPT, SamplingParams(max_tokens=6)) for row in range(60)]
    completions = by_id(open_decoder(plan), requests).values()
    reasons = {one.finish_reason for one in completions}
    assert reasons == {"stop", "length"}
    for one in completions:
        assert one.usage.prompt_tokens == 3
        assert one.usage.completion_tokens == len(one.token_ids) <= 6
        assert 0 not in one.token_ids[:-1]
        assert (one.token_ids[-1] == 0) == (one.finish_reason == "stop")
        assert len(one.text) == sum(token != 0 for token in one.token_ids)


def test_a_stop_text_inside_an_accepted_run_cuts_text_tokens_and_usage(open_decoder: OpenDecoder) -> None:
    free = SamplingParams(max_tokens=30, ignore_eos=True)
    requests = [Request(str(row), PROMPT, free) for row in range(30)]
    whole = by_id(open_decoder(PLANS[3]), requests)
    stopping = SamplingParams(max_tokens=30, ignore_eos=True, stop=("ab", "cc"))
    cut = by_id(open_decoder(PLANS[3]), [Request(one.id, PROMPT, stopping) for one in requests])
    found = 0
    for name, one in cut.items():
        text = whole[name].text
        places = [place for stop in stopping.stop if (place := text.find(stop)) >= 0]
        assert one.text == (text[: min(places)] if places else text)
        assert one.token_ids == whole[name].token_ids[: len(one.token_ids)]
        assert one.usage.completion_tokens == len(one.token_ids)
        assert one.finish_reason == ("stop" if places else "length")
        found += bool(places)
    assert found > 5


def test_neither_end_tokens_nor_stop_texts_come_before_min_tokens(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=20, min_tokens=6, stop=("a", "b", "cc"))
    rows = by_id(open_decoder(PLANS[3]), [Request(str(row), PROMPT, params) for row in range(30)])
    lengths = [len(one.token_ids) for one in rows.values()]
    assert min(lengths) == 7
    assert any(stop in one.text for one in rows.values() for stop in params.stop)


@pytest.mark.parametrize("adjusted", [False, True])
def test_a_stop_token_that_there_is_not_fails_its_row_alone(open_decoder: OpenDecoder, adjusted: bool) -> None:
    params = SamplingParams(max_tokens=5, stop_token_ids=(9,), min_tokens=2 * adjusted)
    bad, good = sorted(
        open_decoder(PLANS[2]).generate([Request("bad", PROMPT, params), Request("good", PROMPT)]),
        key=lambda outcome: outcome.id,
    )
    assert isinstance(bad, Failure)
    assert bad.error.param == "stop_token_ids"
    assert str(bad.error) == "Token id 9 is outside the vocabulary; ids run from 0 to 4."
    assert isinstance(good, Completion)


@pytest.mark.parametrize("stops", [{"stop_token_ids": (4,)}, {"stop": ("<four>",)}], ids=str)
def test_stop_token_ids_and_special_tokens_end_a_row(open_decoder: OpenDecoder, stops: dict[str, Any]) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True, **stops)
    for one in by_id(open_decoder(PLANS[2]), [Request(str(row), PROMPT, params) for row in range(9)]).values():
        assert 4 not in one.token_ids[:-1]
        assert one.token_ids[-1] == 4


def test_a_row_ends_at_the_capacity_and_a_prompt_beyond_it_fails_alone(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=1000, ignore_eos=True)
    requests = [
        Request("long", (1,) * 48, params),
        Request("edge", (1,) * 47, params),
        Request("short", PROMPT, params),
    ]
    outcomes = {one.id: one for one in open_decoder(PLANS[3]).generate(requests)}
    long, edge, short = outcomes["long"], outcomes["edge"], outcomes["short"]
    assert isinstance(long, Failure)
    assert str(long.error) == (
        "The prompt has 48 tokens; this bundle takes at most 47, so that one can be written. "
        "Shorten it, or build the bundle with a larger --capacity."
    )
    assert long.error.code == "context_length_exceeded"
    assert isinstance(edge, Completion)
    assert edge.usage.completion_tokens == 1
    assert isinstance(short, Completion)
    assert short.usage.completion_tokens == 45
    assert short.finish_reason == "length"


@pytest.mark.parametrize("broken", ["draft", "target"])
def test_logits_that_are_not_finite_fail_their_row_alone(open_decoder: OpenDecoder, broken: str) -> None:
    plan, params = PLANS[2], SamplingParams(max_tokens=12, ignore_eos=True)
    requests = [Request(str(row), PROMPT, params) for row in range(7)]
    sound = by_id(open_decoder(plan), requests)
    decoder = open_decoder(plan)
    engine = {"draft": decoder._loop.pair.draft, "target": decoder._loop.pair.target}[broken]
    forward = engine.forward
    seen = []

    def poisoned(call):
        logits = forward(call)
        if len(logits) > 1:  # a round, not the prefill of one row
            seen.append(call)
            if len(seen) == 8:
                logits[1] = float("nan")
        return logits

    engine.forward = poisoned
    outcomes = {one.id: one for one in decoder.generate(requests)}
    failed = [one for one in outcomes.values() if isinstance(one, Failure)]
    assert len(failed) == 1
    assert failed[0].error.code == "non_finite_logits"
    assert failed[0].error.retryable
    assert failed[0].id in str(failed[0].error)
    for name, one in outcomes.items():
        if isinstance(one, Completion):
            assert one.token_ids == sound[name].token_ids


def test_plain_never_touches_a_draft(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan.plain())
    assert decoder._loop.pair.draft is None
    (one,) = by_id(decoder, [Request("a", PROMPT, SamplingParams(max_tokens=5, ignore_eos=True))]).values()
    assert one.speculation.rounds == 5
    assert one.speculation.accepted_at_depth == ()
    decoding = [call for call in decoder._loop.pair.target.calls if call.input_ids_BT.shape[1] == 1]
    assert len(decoding) == 5


def test_requests_are_pulled_as_rows_become_free(open_decoder: OpenDecoder) -> None:
    pulled = []

    def source():
        for row in range(1000):
            pulled.append(row)
            yield Request(str(row), PROMPT, SamplingParams(max_tokens=5))

    outcomes = open_decoder(PLANS[1], batch_size=4).generate(source())
    next(outcomes)
    assert len(pulled) == 4 * AHEAD, "those that are looked at for four free rows"


def test_statistics_add_up(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=40, ignore_eos=True)
    for one in by_id(open_decoder(PLANS[3]), [Request(str(row), PROMPT, params) for row in range(5)]).values():
        stats = one.speculation
        assert list(stats.accepted_at_depth) == sorted(stats.accepted_at_depth, reverse=True)
        assert 40 <= stats.rounds + stats.accepted < 40 + 5
