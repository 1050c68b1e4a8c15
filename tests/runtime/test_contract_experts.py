from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from spectr_runtime import BundleError
from spectr_runtime.adapter.experts import run_experts

ROUTES = torch.tensor([[0, 3], [3, 1], [2, 2], [1, 0], [3, 0]])
SHARES = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0], [0.9, 0.1], [0.3, 0.7]])


def experts_of(family: str) -> Any:
    return tiny_model(family).model.layers[0].mlp.experts


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_every_token_gets_its_experts_in_their_shares(family: str) -> None:
    experts = experts_of(family)
    hidden_NH = torch.randn((5, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected_NH = experts(hidden_NH, ROUTES, SHARES)
        torch.testing.assert_close(run_experts(experts, hidden_NH, ROUTES, SHARES), expected_NH, atol=1e-5, rtol=1e-4)


def test_an_expert_that_overflows_counts_only_where_it_was_chosen() -> None:
    experts = experts_of("mixtral")
    hidden_NH = torch.randn((5, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected_NH = run_experts(experts, hidden_NH, ROUTES, SHARES)
        experts.gate_up_proj[2] = float("inf")
        output_NH = run_experts(experts, hidden_NH, ROUTES, SHARES)
    chosen_N = (ROUTES == 2).any(1)
    torch.testing.assert_close(output_NH[~chosen_N], expected_NH[~chosen_N])
    assert not bool(output_NH[chosen_N].isfinite().any())


@pytest.mark.parametrize("kind", [{"has_gate": False}, {"has_post_expert_norm": True}])
def test_experts_of_another_kind_are_refused(kind: dict[str, bool]) -> None:
    module = SimpleNamespace(**{"has_gate": True, "has_post_expert_norm": False, **kind})
    with pytest.raises(BundleError, match="no gate, or a norm of their own"):
        run_experts(module, torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
