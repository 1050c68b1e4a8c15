"""Mixtures of experts as matrix products over all experts, with the router's weights between them.

Every expert runs on every token, and the experts that the router did not choose count with weight zero. That is exact,
needs no shape or loop that depends on the data, and works on every backend.

The price is that all experts are read and multiplied. It is nothing when the tokens of a call reach all experts anyway,
as in the verification of a batch. A single token alone costs (experts / experts chosen) times as much.
"""

# N tokens of a call, H hidden size, X experts, K experts chosen per token, I inner size of an expert, J = 2I with its
# gate, F inner sizes of the experts of one product side by side.
from __future__ import annotations

import functools
from typing import Any

import torch

from spectr_runtime.bundle.stacks import products
from spectr_runtime.errors import BundleError

EXPERTS = "spectr_contract"


def run_experts(
    module: Any, hidden_NH: torch.Tensor, chosen_NK: torch.Tensor, weights_NK: torch.Tensor
) -> torch.Tensor:
    """Run the experts of a layer, with the arguments that transformers passes; output [N, H].

    Args:
        module: The module with the experts' weights; its attributes describe their layout.
        hidden_NH: Hidden states.
        chosen_NK: The experts that the router chose for each token.
        weights_NK: The router's weights of these experts.

    Raises:
        BundleError: The experts have no gate, or a norm of their own.
    """
    if not module.has_gate or module.has_post_expert_norm:
        raise BundleError(
            "The model's experts have no gate, or a norm of their own, which spectr does not serve.",
            hint="Use another model.",
        )
    experts = torch.arange(module.num_experts, device=hidden_NH.device)
    share_NX = torch.where(chosen_NK[..., None] == experts, weights_NK[..., None], 0).sum(1).to(hidden_NH.dtype)
    inner_NXJ = _up(module, hidden_NH)
    if module.has_bias:
        inner_NXJ = inner_NXJ + module.gate_up_proj_bias
    inner_NXI = module._apply_gate(inner_NXJ)
    # The product alone is not enough: an expert that was not chosen may overflow a half-precision type, and 0 * inf is
    # NaN.
    counted_NXI = torch.where(share_NX[..., None] == 0, 0, inner_NXI * share_NX[..., None])
    output_NH = _down(module, counted_NXI)
    return output_NH + share_NX @ module.down_proj_bias if module.has_bias else output_NH


def _up(module: Any, hidden_NH: torch.Tensor) -> torch.Tensor:
    """Multiply every token with the first stack of every expert; [N, X, J]."""
    matrices = products(module.gate_up_proj, up=True, inputs_first=module.is_transposed)
    parts = [hidden_NH @ matrix_HF for matrix_HF in matrices]
    joined_NF = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
    return torch.unflatten(joined_NF, -1, (module.num_experts, -1))


def _down(module: Any, inner_NXI: torch.Tensor) -> torch.Tensor:
    """Multiply with the second stack of every expert, and sum over the experts; [N, H]."""
    matrices = list(products(module.down_proj, up=False, inputs_first=module.is_transposed))
    inner_NF, width = inner_NXI.flatten(1), len(matrices[0])
    if len(matrices) == 1:
        return inner_NF @ matrices[0]
    parts = [inner_NF[:, index * width : (index + 1) * width] @ matrix_FH for index, matrix_FH in enumerate(matrices)]
    return functools.reduce(torch.add, parts)
