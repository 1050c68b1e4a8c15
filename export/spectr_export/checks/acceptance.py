"""Measures how often a target takes what its draft proposes: the probability that one drafted token is accepted."""

# W windows, T tokens of a window, V tokens that both models score, P positions worked on at once.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from spectr_export.text import batches

# Positions whose laws are in memory together: with 262,144 tokens of a vocabulary 34 MB for each model.
POSITIONS = 32


@torch.inference_mode()
def measure_acceptance(target: Any, draft: Any, ids: Sequence[int]) -> float:
    """Return the probability that a target accepts one token of its draft, as the mean over the places of a text.

    With the laws p of the target and q of the draft at temperature 1 it is the sum of min(p, q), one minus their total
    variation (Leviathan et al. 2023, arXiv 2211.17192, theorem 3.5). A rule with several drafts accepts at least as
    often (Sun et al. 2023, arXiv 2310.15141).

    Args:
        target: The target as the bundle holds it, in eval mode.
        draft: The draft as the bundle holds it, in eval mode; its logits may be narrower or wider than the target's.
        ids: The text's tokens, which both models know.
    """
    overlaps = []
    for windows in batches(ids):
        ids_WT = torch.tensor(windows)
        laws = zip(_laws(target, ids_WT), _laws(draft, ids_WT), strict=True)
        overlaps += [_overlap(target_PV, draft_PV) for target_PV, draft_PV in laws]
    return float(torch.cat(overlaps).mean())


def _laws(model: Any, ids_WT: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a model's laws behind every token of some windows, some positions at a time."""
    for logits_PV in model(input_ids=ids_WT).logits.flatten(0, 1).split(POSITIONS):
        yield logits_PV.float().softmax(-1)


def _overlap(target_PV: torch.Tensor, draft_PV: torch.Tensor) -> torch.Tensor:
    """Return what two laws have in common; a token that one of them does not score has no probability there."""
    width = min(target_PV.shape[-1], draft_PV.shape[-1])
    return torch.minimum(target_PV[:, :width], draft_PV[:, :width]).sum(-1)
