"""Drafts that score chosen tokens of their target: read from a checkpoint and written to a bundle.

Most tokens of a large vocabulary hardly ever occur, so some drafts have logits for the frequent ones alone. Their
checkpoints name these in ``d2t`` [N], which says what has to be added to each id of the draft to get the target's, and
many in ``t2d`` [V] too, which is true for them.
"""

# N tokens that the draft scores, V vocabulary of the target.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.checkpoint import weight_files
from spectr_export.original.formats.gguf import is_gguf
from spectr_export.original.settings import CORRECT
from spectr_runtime.bundle import Role
from spectr_runtime.bundle.layout import TOKENS
from spectr_runtime.bundle.tokens import TENSOR, check_tokens
from spectr_runtime.errors import BundleError

D2T, T2D = "d2t", "t2d"


def find_chosen(folders: Mapping[Role, Path], configs: Mapping[Role, Any]) -> torch.Tensor | None:
    """Return the target's ids of the tokens that a draft scores that is a model of its own; None if it names none.

    Args:
        folders: The checkpoints of target and draft, or of the target alone. A copy of the target has its folder.
        configs: Their transformers configurations.

    Raises:
        BundleError: The names are malformed.
    """
    from safetensors import safe_open

    draft = folders.get("draft")
    if draft is None or draft == folders["target"] or is_gguf(draft):
        return None
    found: dict[str, torch.Tensor] = {}
    for path in weight_files(draft):
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in {D2T, T2D} & {*file.keys()}}
    sizes = configs["draft"].vocab_size, configs["target"].vocab_size
    return chosen_tokens(found, *sizes, draft) if D2T in found else None


def chosen_tokens(tensors: Mapping[str, torch.Tensor], logits: int, size: int, folder: Path) -> torch.Tensor | None:
    """Return the target's ids of the tokens that a draft scores; int64 [N], or None for the first ones in order.

    Args:
        tensors: The tensors of its checkpoint, ``d2t`` among them.
        logits: Number of logits of the draft.
        size: Number of tokens of the target.
        folder: The checkpoint, for messages.

    Raises:
        BundleError: There is not one token of the target for each logit, or ``t2d`` names other tokens.
    """
    offset_N = tensors[D2T]
    if offset_N.is_floating_point() or offset_N.shape != (logits,):
        raise BundleError(
            f"{folder}: {D2T} is {tuple(offset_N.shape)} {offset_N.dtype}; it must be {logits} whole numbers.",
            hint=CORRECT,
        )
    tokens_N = torch.arange(logits) + offset_N.to(torch.int64)
    check_tokens(tokens_N, logits, size, f"{D2T} of {folder}")
    scored_V = tensors.get(T2D)
    if scored_V is not None and not torch.equal(scored_V.to(torch.bool).nonzero()[:, 0], tokens_N.sort().values):
        raise BundleError(f"{folder}: {T2D} names other tokens than {D2T}.", hint=CORRECT)
    return tokens_N if offset_N.any() else None


def write_chosen(tokens_N: torch.Tensor | None, folder: Path) -> None:
    """Write the tokens that a draft scores into its folder of a bundle, if they are chosen ones."""
    from safetensors.torch import save_file

    if tokens_N is not None:
        save_file({TENSOR: tokens_N}, folder / TOKENS)
