"""Mixtures of experts as two matrix products over all experts, with the router's weights between them.

Every expert runs on every token and those that the router did not choose count with weight zero: exact, without a
data-dependent shape or loop, and on every runtime. Its price is reading and multiplying all experts: nothing where the
tokens of a call reach them all anyway, as in verification of a batch, and (experts / experts chosen) times the work of
a single token alone.
"""

# N tokens of a call, H hidden size, X experts, K experts chosen, I inner size of an expert, J = 2I with its gate.
from __future__ import annotations

from typing import Any

import torch

from spectr_runtime.errors import BundleError

EXPERTS = "spectr_contract"


def run_experts(
    module: Any, hidden_NH: torch.Tensor, chosen_NK: torch.Tensor, weights_NK: torch.Tensor
) -> torch.Tensor:
    """The experts of a layer in the form that transformers calls; output [N, H].

    Args:
        module: Holds the experts' weights, in the layout that its attributes tell.
        hidden_NH: Hidden states.
        chosen_NK: Experts that the router chose.
        weights_NK: Their weights.

    Raises:
        BundleError: The experts are not gated, or norm their outputs.
    """
    if not module.has_gate or module.has_post_expert_norm:
        raise BundleError(
            "The model's experts have no gate, or a norm of their own, which spectr does not serve.",
            hint="Use another model.",
        )
    experts = torch.arange(module.num_experts, device=hidden_NH.device)
    share_NX = torch.where(chosen_NK[..., None] == experts, weights_NK[..., None], 0).sum(1).to(hidden_NH.dtype)
    up, down = module.gate_up_proj, module.down_proj
    up_HXJ = up.transpose(0, 1) if module.is_transposed else up.permute(2, 0, 1)
    down_XIH = down if module.is_transposed else down.transpose(1, 2)
    inner_NXJ = (hidden_NH @ up_HXJ.flatten(1)).unflatten(-1, up_HXJ.shape[1:])
    if module.has_bias:
        inner_NXJ = inner_NXJ + module.gate_up_proj_bias
    inner_NXI = module._apply_gate(inner_NXJ)
    # Not the product alone: an expert that was not chosen may overflow a half-precision type, and 0 * inf is NaN.
    counted_NXI = torch.where(share_NX[..., None] == 0, 0, inner_NXI * share_NX[..., None])
    output_NH: torch.Tensor = counted_NXI.flatten(1) @ down_XIH.flatten(0, 1)
    return output_NH + share_NX @ module.down_proj_bias if module.has_bias else output_NH
