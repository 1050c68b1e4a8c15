"""Echoes and log-probabilities of prompts through the decoder, against logits computed token by token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import TableEngine

from spectr_runtime import Call, Completion, Decoder, EngineError, Failure, Plan, Request, SamplingParams

OpenDecoder = Callable[..., Decoder]
PROMPTS = [(1,), (2, 1), (1, 3, 2, 4, 4, 1, 2, 3, 1, 1, 2), (4, 3, 2, 1, 2)]
PLANS = [Plan.plain(), Plan("kseq", 2, 3), "auto"]


def expected(prompt: tuple[int, ...]) -> list[float]:
    engine = TableEngine(2)
    laws = [engine.logits_after(prompt[:end]).log_softmax(-1) for end in range(1, len(prompt))]
    return [float(law[token]) for law, token in zip(laws, prompt[1:], strict=True)]


def decoded(decoder: Decoder, requests: list[Request]) -> dict[str, Completion]:
    outcomes = list(decoder.generate(requests))
    assert all(isinstance(one, Completion) for one in outcomes)
    return {one.id: one for one in outcomes if isinstance(one, Completion)}


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("written", [0, 1, 6])
@pytest.mark.parametrize("tokens_per_call", [1, 3, 40])
def test_an_echo_scores_the_prompt_as_the_target_does(
    open_decoder: OpenDecoder, plan: Plan, written: int, tokens_per_call: int
) -> None:
    params = SamplingParams(max_tokens=written, temperature=0.5, logprobs=2, ignore_eos=True)
    requests = [Request(str(row), prompt, params, echo=True) for row, prompt in enumerate(PROMPTS)]
    others = [Request(f"other {row}", (2, 3), SamplingParams(max_tokens=9)) for row in range(3)]
    decoder = open_decoder(plan, batch_size=3, tokens_per_call=tokens_per_call)
    found = decoded(decoder, [requests[0], others[0], *requests[1:], *others[1:]])
    for request, prompt in zip(requests, PROMPTS, strict=True):
        one = found[request.id]
        assert one.logprobs is not None
        assert len(one.token_ids) == written
        assert [entry.token_id for entry in one.logprobs] == [*prompt, *one.token_ids]
        assert one.logprobs[0].logprob is None
        assert one.logprobs[0].top == ()
        scores = [entry.logprob for entry in one.logprobs[1 : len(prompt)]]
        assert scores == pytest.approx(expected(prompt), abs=1e-5)
        assert all(len(entry.top) == 2 for entry in one.logprobs[1:])
        assert one.text == "".join(chr(ord("a") + token - 1) for token in (*prompt, *one.token_ids) if token)


def test_an_echo_changes_nothing_that_is_written(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=12, logprobs=1)
    quiet = decoded(open_decoder(PLANS[1]), [Request(str(row), p, params) for row, p in enumerate(PROMPTS)])
    loud = decoded(open_decoder(PLANS[1]), [Request(str(row), p, params, echo=True) for row, p in enumerate(PROMPTS)])
    for name, prompt in enumerate(PROMPTS):
        assert loud[str(name)].token_ids == quiet[str(name)].token_ids
        assert loud[str(name)].logprobs[len(prompt) :] == quiet[str(name)].logprobs


def test_nothing_is_written_without_a_pass_of_a_model(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(PLANS[1])
    requests = [
        Request("a", PROMPTS[2], SamplingParams(max_tokens=0)),
        Request("b", PROMPTS[2], SamplingParams(max_tokens=0), echo=True),
    ]
    quiet, echo = decoder.generate(requests)
    assert isinstance(quiet, Completion)
    assert isinstance(echo, Completion)
    assert (quiet.text, echo.text) == ("", "acbddabcaab")
    for one in (quiet, echo):
        assert one.token_ids == ()
        assert one.finish_reason == "length"
        assert one.usage.completion_tokens == one.speculation.rounds == 0
        assert one.logprobs is None
    assert not decoder.rounds


def test_a_prompt_that_fills_the_capacity_is_scored_and_a_longer_one_is_refused(open_decoder: OpenDecoder) -> None:
    params = SamplingParams(max_tokens=0, logprobs=0)
    requests = [Request(str(size), (1,) * size, params, echo=True) for size in (48, 49)]
    scored, refused = sorted(open_decoder(PLANS[1]).generate(requests), key=lambda one: one.id)
    assert isinstance(scored, Completion)
    assert [entry.logprob for entry in scored.logprobs[1:]] == pytest.approx(expected((1,) * 48), abs=1e-5)
    assert isinstance(refused, Failure)
    assert str(refused.error) == (
        "The prompt has 49 tokens; this bundle takes at most 48. "
        "Shorten it, or build the bundle with a larger --capacity."
    )


def test_a_prompt_whose_logits_are_not_finite_fails_alone(open_decoder: OpenDecoder) -> None:
    class Broken(TableEngine):
        def forward(self, call) -> torch.Tensor:
            logits = super().forward(call)
            fed = call.input_ids_BT.gather(1, call.logit_index_BM)
            return torch.where((fed == 3)[..., None], torch.nan, logits)

    params = SamplingParams(max_tokens=0, logprobs=1)
    requests = [Request("bad", (1, 3, 1), params, echo=True), Request("good", (1, 2, 1), params, echo=True)]
    found = {one.id: one for one in open_decoder(PLANS[0], engine=Broken).generate(requests)}
    assert isinstance(found["good"], Completion)
    assert isinstance(found["bad"], Failure)
    assert found["bad"].error.code == "non_finite_logits"


def test_a_row_that_was_scored_and_lost_its_room_writes_nothing_that_nobody_wanted(open_decoder: OpenDecoder) -> None:
    """Of two rows to be scored, with another one between them, memory runs out while the second one is."""

    class Small(TableEngine):
        failed = False

        def forward(self, call: Call) -> torch.Tensor:
            if call.first_row == 2 and not Small.failed:
                Small.failed = True
                raise EngineError("PyTorch failed in a call: CUDA out of memory.")
            return super().forward(call)

    scored = SamplingParams(max_tokens=0, logprobs=1)
    requests = [
        Request("a", (1, 2), scored, echo=True),
        Request("b", (1, 2, 3), SamplingParams(max_tokens=4)),
        Request("c", (1, 2, 3, 4), scored, echo=True),
    ]
    found = decoded(open_decoder(PLANS[0], batch_size=3, tokens_per_call=40, engine=Small), requests)
    assert Small.failed
    assert found["a"].token_ids == found["c"].token_ids == ()
    assert [entry.logprob for entry in found["c"].logprobs[1:]] == pytest.approx(expected((1, 2, 3, 4)), abs=1e-5)
