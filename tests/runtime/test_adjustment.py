"""Penalties, biases, held-back ends and log-probabilities through the decoder, against laws computed token by token."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from support import TableEngine, chi_square_p_value

from spectr_runtime import Completion, Decoder, Failure, Plan, Request, SamplingParams

OpenDecoder = Callable[..., Decoder]
PROMPT = (1, 3, 2)
PLANS = [Plan.plain(), Plan("kseq", 3, 2), Plan("race", 2, 3)]
PENALISED = SamplingParams(
    max_tokens=3,
    presence_penalty=0.7,
    frequency_penalty=1.1,
    repetition_penalty=1.6,
    logit_bias=((2, 1.5), (4, -0.5)),
    min_tokens=2,
)


def adjusted_law(text: tuple[int, ...], params: SamplingParams) -> torch.Tensor:
    """The law of the token behind prompt and text, one vocabulary entry after the other."""
    written = text[len(PROMPT) :]
    logits = TableEngine(2).logits_after(text).double()
    for token in range(5):
        if token in text:
            logits[token] *= 1 / params.repetition_penalty if logits[token] > 0 else params.repetition_penalty
        logits[token] -= params.frequency_penalty * written.count(token) + params.presence_penalty * (token in written)
        logits[token] += dict(params.logit_bias).get(token, 0.0)
    if len(written) < params.min_tokens:
        logits[0] = -torch.inf
    return logits.softmax(-1)


def law_of_three(params: SamplingParams) -> torch.Tensor:
    """Exact law of three tokens; behind an end token all mass stays on token 0."""
    end = torch.eye(5, dtype=torch.float64)[0]

    def step(text: tuple[int, ...]) -> torch.Tensor:
        return end if 0 in text[len(PROMPT) :] else adjusted_law(text, params)

    return torch.stack([
        step(PROMPT)[one] * step((*PROMPT, one))[two] * step((*PROMPT, one, two))[three]
        for one, two, three in itertools.product(range(5), repeat=3)
    ])  # fmt: skip


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_every_node_of_the_tree_is_penalised_for_its_own_path(open_decoder: OpenDecoder, plan: Plan) -> None:
    counts = torch.zeros(125)
    for outcome in open_decoder(plan, batch_size=64).generate(
        Request(str(row), PROMPT, PENALISED) for row in range(4_000)
    ):
        assert isinstance(outcome, Completion)
        first, second, third = (*outcome.token_ids, 0)[:3]
        counts[25 * first + 5 * second + third] += 1
    assert chi_square_p_value(counts, law_of_three(PENALISED)) > 1e-9
    unpenalised = law_of_three(SamplingParams(max_tokens=3, min_tokens=2))
    assert chi_square_p_value(counts, unpenalised) < 1e-9, "the test must be able to tell a wrong law"


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_penalised_row_disturbs_nobody(open_decoder: OpenDecoder, plan: Plan) -> None:
    params = (SamplingParams(max_tokens=12), PENALISED, SamplingParams(max_tokens=9, frequency_penalty=2.0))
    requests = [Request(str(row), PROMPT, params[row % 3]) for row in range(12)]

    def tokens(batch_size: int) -> dict[str, tuple[int, ...]]:
        outcomes = list(open_decoder(plan, batch_size=batch_size).generate(requests))
        return {one.id: one.token_ids for one in outcomes if isinstance(one, Completion)}

    assert len(tokens(1)) == 12
    assert tokens(1) == tokens(5)


def test_no_end_token_comes_before_min_tokens(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=20, min_tokens=7, stop_token_ids=(3,))
    for outcome in open_decoder(Plan("kseq", 2, 4)).generate(Request(str(row), PROMPT, params) for row in range(40)):
        assert isinstance(outcome, Completion)
        assert len(outcome.token_ids) >= 8 or outcome.finish_reason == "length"
        assert not {0, 3} & set(outcome.token_ids[:7])


def test_a_bias_outside_the_vocabulary_is_refused_alone(open_decoder: OpenDecoder) -> None:
    requests = [Request("bad", PROMPT, SamplingParams(logit_bias=((5, 1.0),))), Request("good", PROMPT)]
    bad, good = open_decoder(Plan.plain()).generate(requests)
    assert isinstance(bad, Failure)
    assert str(bad.error) == "Token id 5 is outside the vocabulary; ids run from 0 to 4."
    assert bad.error.param == "logit_bias"
    assert isinstance(good, Completion)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_logprobs_are_the_targets_own_before_any_processing(open_decoder: OpenDecoder, plan: Plan) -> None:
    params = SamplingParams(max_tokens=9, temperature=0.7, top_k=3, frequency_penalty=0.5, logprobs=2, ignore_eos=True)
    requests = [Request("a", PROMPT, params), Request("b", PROMPT), Request("c", PROMPT, SamplingParams(logprobs=0))]
    found = {one.id: one for one in open_decoder(plan).generate(requests) if isinstance(one, Completion)}
    assert found["b"].logprobs is None
    assert all(entry.top == () for entry in found["c"].logprobs or ())
    assert found["a"].logprobs is not None
    assert [entry.token_id for entry in found["a"].logprobs] == list(found["a"].token_ids)
    text = PROMPT
    for entry in found["a"].logprobs:
        law = TableEngine(2).logits_after(text).log_softmax(-1)
        best = law.topk(2)
        assert entry.logprob == pytest.approx(float(law[entry.token_id]), abs=1e-5)
        assert [one.token_id for one in entry.top] == best.indices.tolist()
        assert [one.logprob for one in entry.top] == pytest.approx(best.values.tolist(), abs=1e-5)
        assert entry.data == entry.text.encode()
        text = (*text, entry.token_id)


def test_choices_of_one_record_have_noise_of_their_own(open_decoder: OpenDecoder) -> None:
    requests = [Request("a", PROMPT, SamplingParams(max_tokens=30, ignore_eos=True), choice) for choice in range(3)]
    decoder = open_decoder(Plan("kseq", 2, 2))
    found = {one.choice: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    assert len(set(found.values())) == 3
    (alone,) = decoder.generate(requests[1:2])
    assert isinstance(alone, Completion)
    assert alone.token_ids == found[1]
