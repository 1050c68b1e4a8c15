"""A draft with fewer or other logits than the vocabulary has never proposes the rest; the law stays the target's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support import TableEngine, chi_square_p_value
from table_pair import NoText, table_bundle

from spectr_runtime import Bundle, Call, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.bundle import Head, Vocabulary
from spectr_runtime.contract import Engine
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.planning.measuring import measure
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.narrow import WidenedEngine
from spectr_runtime.speculation.pair import Pair
from spectr_select import RULES

KNOWN, SIZE, SUBSTITUTE = 3, 5, 2
PROMPT = (4, 1, 3, 2)  # tokens 3 and 4 are unknown to the draft
PLANS = [Plan(rule, 1 if RULES[rule].trees == "chain" else 2, 2) for rule in RULES]


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A target of five tokens, of which its draft knows three; no token ends a text."""

    def open_engine(_bundle: Bundle, role: str, *, rows: int, capacity: int, **_: object) -> TableEngine:
        seed, width = {"draft": (1, KNOWN), "target": (2, SIZE)}[role]
        return TableEngine(seed, vocabulary=width, rows=rows, capacity=capacity)

    monkeypatch.setattr("spectr_runtime.speculation.pair.open_engine", open_engine)
    for entrance in ("decoder", "scorer"):
        monkeypatch.setattr(f"spectr_runtime.{entrance}.Tokenizer", NoText)
    manifest = table_bundle(4).manifest
    models = {**manifest.models, "draft": dataclasses.replace(manifest.models["draft"], vocabulary=KNOWN)}
    vocabulary = Vocabulary(SIZE, (), SUBSTITUTE)
    return Bundle(Path("nowhere"), dataclasses.replace(manifest, models=models, vocabulary=vocabulary))


def call_of(*tokens: int) -> Call:
    count = len(tokens)
    return Call(
        input_ids_BT=torch.tensor([tokens]),
        position_ids_BT=torch.arange(count)[None],
        attention_mask_B1TL=torch.ones((1, 1, count, count), dtype=torch.bool).tril(),
        write_index_B=torch.tensor([0]),
        logit_index_BM=torch.arange(count)[None],
    )


def test_logits_are_widened_and_unknown_tokens_replaced() -> None:
    inner, plain = (TableEngine(1, vocabulary=KNOWN, rows=1) for _ in range(2))
    wide = WidenedEngine(inner, Vocabulary(SIZE, (), SUBSTITUTE))
    logits_BTV = wide.forward(call_of(*PROMPT))
    assert torch.equal(logits_BTV[..., :KNOWN], plain.forward(call_of(2, 1, 2, 2)))
    assert (logits_BTV[..., KNOWN:] == -torch.inf).all()
    assert (wide.spec.vocabulary, wide.spec.layers) == (SIZE, inner.spec.layers)
    assert wide.cache is inner.cache


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0),
        SamplingParams(temperature=0.3, top_k=4, top_p=0.9, min_p=0.01),
        SamplingParams(top_k=5),
    ],
)
def test_the_laws_of_such_a_draft_are_laws(params: SamplingParams) -> None:
    wide = WidenedEngine(TableEngine(1, vocabulary=KNOWN, rows=1), Vocabulary(SIZE, (), SUBSTITUTE))
    law_BMV, sound_B = Sampling.of([params], SIZE, torch.device("cpu")).laws(wide.forward(call_of(*PROMPT)))
    assert sound_B.all()
    assert law_BMV.isfinite().all()
    torch.testing.assert_close(law_BMV.sum(-1), torch.ones(1, len(PROMPT)))
    assert (law_BMV[..., KNOWN:] == 0).all()


def test_only_a_narrow_draft_is_widened(bundle: Bundle) -> None:
    def pair(one: Bundle) -> Pair:
        return Pair(one, PLANS, backend="torch", device="cpu", rows=1)

    assert isinstance(pair(bundle).draft, WidenedEngine)
    narrow = dataclasses.replace(bundle.manifest, vocabulary=Vocabulary(KNOWN, ()))
    assert isinstance(pair(Bundle(bundle.path, narrow)).draft, TableEngine)


def decode(bundle: Bundle, plan: Plan, requests: list[Request], batch_size: int = 3) -> list[tuple[int, ...]]:
    decoder = Decoder(bundle, plan=plan, backend="torch", batch_size=batch_size)
    outcomes = {one.id: one for one in decoder.generate(requests)}
    found = [outcomes[request.id] for request in requests]
    return [one.token_ids for one in found if isinstance(one, Completion)]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_greedy_texts_are_those_of_plain_decoding(bundle: Bundle, plan: Plan) -> None:
    penalised = SamplingParams(max_tokens=30, temperature=0, repetition_penalty=1.3, logit_bias=((4, 2.0),))
    requests = [
        Request("a", PROMPT, SamplingParams(max_tokens=30, temperature=0)),
        Request("b", (3,), SamplingParams(max_tokens=30, temperature=0)),
        Request("c", PROMPT, penalised),
    ]
    expected = decode(bundle, Plan.plain(), requests)
    assert len(expected) == 3
    assert any(token >= KNOWN for ids in expected for token in ids)
    assert decode(bundle, plan, requests) == expected


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_first_token_follows_the_target_although_the_draft_cannot_propose_it(bundle: Bundle, plan: Plan) -> None:
    requests = [Request(str(number), PROMPT, SamplingParams(max_tokens=1)) for number in range(1500)]
    tokens = torch.tensor(decode(bundle, plan, requests, batch_size=64)).view(-1)
    law = TableEngine(2, vocabulary=SIZE, rows=1).logits_after(PROMPT).softmax(-1)
    assert law[KNOWN:].sum() > 0.05
    assert chi_square_p_value(torch.bincount(tokens, minlength=SIZE), law) > 1e-4


def test_the_scorer_and_the_measurement_of_costs_take_such_a_draft(bundle: Bundle) -> None:
    request = Request("a", PROMPT, SamplingParams(max_tokens=20))
    (ids,) = decode(bundle, PLANS[0], [request])
    scorer = Scorer(bundle, backend="torch", device="cpu", batch_size=2, plan=PLANS[0])
    (score,) = scorer.score([Written(request, ids)])
    assert len(score.tokens) == len(ids) == 20
    assert all(token.possible for token in score.tokens)
    pair = Pair(bundle, PLANS[:1], backend="torch", device="cpu", rows=1)
    costs = measure(pair, PLANS[:1], bundle.manifest, 1)
    assert costs.seconds(PLANS[0], 1) > 0


TOKENS = (4, 1, 3)  # of the target, which the draft has under the ids 0, 1 and 2


def mapped(inner: TableEngine) -> WidenedEngine:
    return WidenedEngine(inner, Vocabulary(SIZE, (), SUBSTITUTE), torch.tensor(TOKENS))


@pytest.fixture
def chosen(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """The bundle with a draft that scores chosen tokens, in an order of its own."""

    def open_engine(_bundle: Bundle, role: str, *, rows: int, capacity: int, **_: object) -> Engine:
        if role == "target":
            return TableEngine(2, vocabulary=SIZE, rows=rows, capacity=capacity)
        return mapped(TableEngine(1, vocabulary=KNOWN, rows=rows, capacity=capacity))

    monkeypatch.setattr("spectr_runtime.speculation.pair.open_engine", open_engine)
    return bundle


def test_logits_go_to_the_tokens_that_they_are_for() -> None:
    inner, plain = (TableEngine(1, vocabulary=KNOWN, rows=1) for _ in range(2))
    logits_BTV = mapped(inner).forward(call_of(*PROMPT))
    assert torch.equal(logits_BTV[..., TOKENS], plain.forward(call_of(0, 1, 2, SUBSTITUTE)))
    assert (logits_BTV[..., [0, 2]] == -torch.inf).all()


def test_a_head_is_fed_the_tokens_of_the_target() -> None:
    inner, plain = (TableEngine(1, vocabulary=KNOWN, rows=1) for _ in range(2))
    inner.spec = dataclasses.replace(inner.spec, head=Head("eagle3", 1, 1))
    logits_BTV = mapped(inner).forward(call_of(*PROMPT))
    assert torch.equal(logits_BTV[..., TOKENS], plain.forward(call_of(*PROMPT)))


def test_tokens_beyond_the_vocabulary_are_left_to_the_laws() -> None:
    wide = WidenedEngine(TableEngine(1, vocabulary=2, rows=1), Vocabulary(3, ()), torch.tensor([1, 4]))
    assert wide.spec.vocabulary == 5
    law_BMV, sound_B = Sampling.of([SamplingParams()], 3, torch.device("cpu")).laws(wide.forward(call_of(0, 1, 2)))
    assert sound_B.all()
    assert law_BMV.tolist() == [[[0.0, 1.0, 0.0]] * 3]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_greedy_texts_stay_the_same_with_chosen_tokens(chosen: Bundle, plan: Plan) -> None:
    requests = [Request(str(token), (token, 2), SamplingParams(max_tokens=30, temperature=0)) for token in range(SIZE)]
    expected = decode(chosen, Plan.plain(), requests)
    assert {token for ids in expected for token in ids} - {*TOKENS}
    assert decode(chosen, plan, requests) == expected


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_first_tokens_follow_the_target_with_chosen_tokens(chosen: Bundle, plan: Plan) -> None:
    requests = [Request(str(number), PROMPT, SamplingParams(max_tokens=1)) for number in range(1500)]
    tokens = torch.tensor(decode(chosen, plan, requests, batch_size=64)).view(-1)
    law = TableEngine(2, vocabulary=SIZE, rows=1).logits_after(PROMPT).softmax(-1)
    assert law[[0, 2]].sum() > 0.05
    assert chi_square_p_value(torch.bincount(tokens, minlength=SIZE), law) > 1e-4
