"""Scores of written tokens: against the table models' own laws, and uniform under exact decoding."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from eager_pair import eager_bundle
from support import TableEngine
from table_pair import VOCABULARY as V
from table_pair import table_scorer, write
from tiny_models import VOCABULARY
from transformers import AutoModelForCausalLM

from spectr_runtime import Completion, Decoder, Plan, Request, RequestError, SamplingParams
from spectr_runtime.rows.score import Score, TokenScore, Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.plan import PlanChoice


@pytest.fixture
def open_scorer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scorer]:
    return functools.partial(table_scorer, monkeypatch)


def scored(scorer: Scorer, *completions: Written) -> list[Score]:
    found = list(scorer.score(completions))
    assert [score.written for score in found] == list(completions)
    assert all(len(score.tokens) == len(score.written.token_ids) for score in found)
    return found


def by_hand(request: Request, token_ids: Sequence[int]) -> list[TokenScore]:
    """Compute the same scores from the tables, token by token, for temperature alone."""
    target, draft = TableEngine(2, vocabulary=V), TableEngine(1, vocabulary=V)
    text, scores = tuple(request.prompt), []
    for token in token_ids:
        laws = [(engine.logits_after(text) / request.params.temperature).softmax(-1) for engine in (target, draft)]
        t, d = (law.tolist() for law in laws)
        by_ratio = sum(t[x] for x in range(V) if d[x] / t[x] < d[token] / t[token])
        by_probability = sum(t[x] for x in range(V) if t[x] < t[token])
        scores.append(TokenScore(t[token], by_ratio, by_probability, True))
        text = (*text, token)
    return scores


def test_scores_are_those_of_the_laws_whatever_the_batch(open_scorer: Callable[..., Scorer]) -> None:
    shuffler = random.Random(4)
    completions = [
        Written(
            Request(
                str(row),
                tuple(shuffler.randrange(V) for _ in range(1 + row % 9)),
                SamplingParams(temperature=(1, 0.7)[row % 2]),
            ),
            tuple(shuffler.randrange(V) for _ in range(1 + 5 * row % 23)),
        )
        for row in range(12)
    ]
    for scorer in (open_scorer(batch_size=1, tokens_per_call=40), open_scorer(batch_size=5, tokens_per_call=3)):
        for score in scored(scorer, *completions):
            expected = by_hand(score.written.request, score.written.token_ids)
            for one, other in zip(score.tokens, expected, strict=True):
                assert one.possible
                assert one.probability == pytest.approx(other.probability, rel=1e-5)
                assert one.below_by_ratio == pytest.approx(other.below_by_ratio, abs=1e-6)
                assert one.below_by_probability == pytest.approx(other.below_by_probability, abs=1e-6)


@pytest.mark.parametrize(
    ("plan", "most"), [(Plan.plain(), 1), (Plan("kseq", 2, 3), 7), ("auto", 17)], ids=["plain", "tree", "auto"]
)
def test_compiled_engines_are_asked_for_no_more_than_a_trees_logits(
    open_scorer: Callable[..., Scorer], plan: PlanChoice, most: int
) -> None:
    written = Written(Request("a", (1,) * 9), (2,) * 30)
    scorer = open_scorer(tokens_per_call=16, backend="tensorrt", plan=plan)
    engine = scorer._pair.target
    assert isinstance(engine, TableEngine)
    (score,) = scored(scorer, written)
    assert max(call.logit_index_BM.shape[1] for call in engine.calls) == most
    (expected,) = scored(open_scorer(tokens_per_call=16), written)
    assert score == expected


@pytest.mark.parametrize("plan", [Plan.plain(), "auto"], ids=str)
def test_a_target_alone_gives_the_same_scores_but_the_order_of_draft_to_target(
    open_scorer: Callable[..., Scorer], plan: PlanChoice
) -> None:
    params = SamplingParams(temperature=0.7, top_k=4)
    rows = [Written(Request(str(row), (1 + row % 4,) * (1 + row), params), (3, 1, 2, row % 5)) for row in range(9)]
    alone = scored(open_scorer(plan=plan, roles=("target",)), *rows)
    for score, one in zip(scored(open_scorer(), *rows), alone, strict=True):
        assert one.tokens == tuple(dataclasses.replace(token, below_by_ratio=None) for token in score.tokens)


def test_equal_prompts_of_equal_seeds_are_scored_once(open_scorer: Callable[..., Scorer]) -> None:
    seeded = SamplingParams(seed=7)
    first = Written(Request("a", (1, 2), seeded), (3, 1))
    others = [Written(Request("b", (1, 2), seeded, choice=4), (3, 1))]
    kept = [
        Written(Request("c", (1, 2), seeded, sample=1), (2,)),
        Written(Request("d", (2, 1), seeded), (2,)),
        Written(Request("e", (1, 2), SamplingParams(seed=8)), (2,)),
        Written(Request("f", (1, 2)), (3, 1)),
        Written(Request("g", (1, 2)), (3, 1)),
    ]
    found = [score.written for score in open_scorer().score([first, *others, *kept])]
    assert found == [first, *kept]


def test_a_row_that_fills_the_capacity_is_scored(open_scorer: Callable[..., Scorer]) -> None:
    params = SamplingParams()
    long, wide = Written(Request("a", (1,) * 40, params), (2,) * 8), Written(Request("b", (1,), params), (3,) * 47)
    for score in scored(open_scorer(), long, wide):
        expected = by_hand(score.written.request, score.written.token_ids)
        assert [one.probability for one in score.tokens] == pytest.approx([one.probability for one in expected])


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(max_tokens=20, temperature=0),
        SamplingParams(max_tokens=20, top_k=2),
        SamplingParams(max_tokens=20, top_p=0.6, min_tokens=9),
        SamplingParams(max_tokens=20, presence_penalty=1.5, frequency_penalty=-0.4, repetition_penalty=1.7),
        SamplingParams(max_tokens=20, logit_bias=((3, -100.0), (1, 2.5)), min_p=0.2),
    ],
)
def test_what_the_decoder_writes_is_possible(
    monkeypatch: pytest.MonkeyPatch, open_scorer: Callable[..., Scorer], params: SamplingParams
) -> None:
    requests = [Request(str(row), (1, 1 + row % 4), params) for row in range(12)]
    rows = write(monkeypatch, Plan("kseq", 2, 3), requests, 4)
    scores = scored(open_scorer(), *rows)
    assert all(token.possible for score in scores for token in score.tokens)
    assert all(token.probability > 0 for score in scores for token in score.tokens)
    claimed = SamplingParams(max_tokens=20, top_k=1)
    others = [Written(Request(one.request.id, one.request.prompt, claimed), one.token_ids) for one in rows]
    wrong = [token.possible for score in scored(open_scorer(), *others) for token in score.tokens]
    assert all(wrong) == (params.temperature == 0), "the test must be able to tell an impossible token"


def test_a_token_within_the_tolerance_of_the_best_is_possible(open_scorer: Callable[..., Scorer]) -> None:
    scorer = open_scorer()
    engine = scorer._pair.target
    assert isinstance(engine, TableEngine)
    engine.logits_SV[:] = torch.tensor([0.0, 1.0, 1.0009, 0.9, 0.0])
    greedy = SamplingParams(temperature=0)
    (near, best, far) = scored(scorer, *(Written(Request(str(token), (1,), greedy), (token,)) for token in (1, 2, 3)))
    assert [score.tokens[0].possible for score in (near, best, far)] == [True, True, False]
    assert [score.tokens[0].probability for score in (near, best, far)] == [0, 1, 0]
    assert scorer.tolerance == 1e-3


@pytest.mark.parametrize(
    ("prompt", "tokens", "message"),
    [
        ((1,), (2, 5), "Row 'x' has token id 5; allowed are 47 tokens with ids from 0 to 4."),
        (
            (1,) * 40,
            (2,) * 9,
            "Row 'x' has 9 tokens; allowed are 8 tokens with ids from 0 to 4.",
        ),
    ],
)
def test_a_row_of_another_bundle_is_refused(
    open_scorer: Callable[..., Scorer], prompt: tuple[int, ...], tokens: tuple[int, ...], message: str
) -> None:
    with pytest.raises(RequestError) as caught:
        scored(open_scorer(), Written(Request("x", prompt), tokens))
    assert str(caught.value) == message


def test_logits_that_are_not_finite_are_refused(open_scorer: Callable[..., Scorer]) -> None:
    scorer = open_scorer()
    engine = scorer._pair.draft
    assert isinstance(engine, TableEngine)
    engine.logits_SV[:] = math.nan
    with pytest.raises(RequestError, match=r"The logits of row .x. are not finite\."):
        scored(scorer, Written(Request("x", (1,)), (2,)))


@torch.inference_mode()
def test_scores_of_checkpoints_are_those_of_transformers(tmp_path: Path) -> None:
    bundle, size = eager_bundle(tmp_path), VOCABULARY
    params = [SamplingParams(max_tokens=40, ignore_eos=True), SamplingParams(max_tokens=40, temperature=0.7)]
    requests = [Request(str(row), tuple(range(row, 3 * row + 2)), params[row % 2]) for row in range(8)]
    decoder = Decoder(bundle, plan=Plan("kseq", 2, 3), backend="torch", batch_size=3)
    tokens = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    models = [
        AutoModelForCausalLM.from_pretrained(tmp_path / role, dtype=torch.float32, attn_implementation="eager")
        for role in ("target", "draft")
    ]
    scorer = Scorer(bundle, backend="torch", device="cpu", batch_size=5, plan=Plan.plain())
    for score in scorer.score([Written(request, tokens[request.id]) for request in requests]):
        request, written = score.written.request, score.written.token_ids
        text = torch.tensor([[*request.prompt, *written]])
        laws = [model(text).logits[0, -len(written) - 1 : -1, :size].double() for model in models]
        target_MV, draft_MV = ((logits / request.params.temperature).softmax(-1) for logits in laws)
        ratio_MV = draft_MV / target_MV
        for place, (token, one) in enumerate(zip(written, score.tokens, strict=True)):
            t, ratio = target_MV[place], ratio_MV[place]
            assert one.probability == pytest.approx(float(t[token]), rel=1e-3)
            assert one.below_by_ratio == pytest.approx(float(t[ratio < ratio[token]].sum()), abs=1e-3)
            assert one.below_by_probability == pytest.approx(float(t[t < t[token]].sum()), abs=1e-3)
