"""Measures how often a target takes what its draft proposes: the probability that one drafted token is accepted."""

# W windows, T tokens of a window, V tokens of the target, N tokens that the draft scores, P positions worked on at
# once, F width of the features.
from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from spectr_export.text import batches
from spectr_runtime.adapter.eagle3 import Eagle3Head
from spectr_runtime.adapter.model import entering

# Positions whose laws are in memory together: with 262,144 tokens of a vocabulary 34 MB for each model.
POSITIONS = 32


@torch.inference_mode()
def measure_acceptance(
    target: Any, draft: Any, ids: Sequence[int], chosen_N: torch.Tensor | None = None, substitute: int = 0
) -> float:
    """Return the probability that a target accepts one token of its draft, as the mean over the places of a text.

    With the laws p of the target and q of the draft at temperature 1 it is the sum of min(p, q), one minus their total
    variation (Leviathan et al. 2023, arXiv 2211.17192, theorem 3.5). A rule with several drafts accepts at least as
    often (Sun et al. 2023, arXiv 2310.15141).

    Args:
        target: The target as the bundle holds it, in eval mode.
        draft: The draft as the bundle holds it, in eval mode; its logits may be narrower or wider than the target's.
        ids: The text's tokens, which both models know.
        chosen_N: The target's ids of the tokens that the draft scores; None for the first ones in order.
        substitute: What a draft of chosen tokens is fed in place of another one.
    """
    overlaps: list[torch.Tensor] = []
    for windows in batches(ids):
        ids_WT = torch.tensor(windows)
        own_WT = ids_WT if chosen_N is None else _own(ids_WT, chosen_N, substitute)
        logits_WTV, logits_WTN = target(input_ids=ids_WT).logits, draft(input_ids=own_WT).logits
        overlaps += _overlaps(logits_WTV, logits_WTN, chosen_N)
    return float(torch.cat(overlaps).mean())


@torch.inference_mode()
def measure_head(target: Any, head: Eagle3Head, ids: Sequence[int], chosen_N: torch.Tensor | None = None) -> float:
    """Return the probability that a target accepts the first token that its head drafts; see ``measure_acceptance``.

    Where the head drafts further, it reads its own states in place of the target's features, and is accepted less
    often.

    Args:
        target: The target as the bundle holds it, in eval mode.
        head: The head as the bundle holds it, in eval mode, with transformers' own attention.
        ids: As for ``measure_acceptance``.
        chosen_N: As for ``measure_acceptance``.
    """
    overlaps: list[torch.Tensor] = []
    layers = head.settings.layers
    for windows in batches(ids):
        ids_WT = torch.tensor(windows)
        with entering(target, layers) as states:
            logits_WTV = target(input_ids=ids_WT).logits
        features_WTF = torch.cat([states[layer] for layer in layers], -1)
        # The head reads a token with the features of the one before it.
        pairs = ids_WT[:, 1:], head.read(features_WTF[:, :-1])
        tokens = pairs[0].shape[1]
        unseen_TT = torch.ones((tokens, tokens), dtype=torch.bool).triu(1)
        mask_11TT = torch.zeros((tokens, tokens)).masked_fill(unseen_TT, -torch.inf)[None, None]
        logits_WTN, _states = head.score(*pairs, torch.arange(tokens)[None], attention_mask=mask_11TT)
        overlaps += _overlaps(logits_WTV[:, 1:], logits_WTN, chosen_N)
    return float(torch.cat(overlaps).mean())


def _own(ids_WT: torch.Tensor, chosen_N: torch.Tensor, substitute: int) -> torch.Tensor:
    """Return tokens of the target under the ids that they have in a draft of chosen ones."""
    own_V = torch.full((int(max(chosen_N.max(), ids_WT.max())) + 1,), substitute)
    own_V[chosen_N] = torch.arange(len(chosen_N))
    return own_V[ids_WT]


def _overlaps(
    logits_WTV: torch.Tensor, logits_WTN: torch.Tensor, chosen_N: torch.Tensor | None
) -> Iterator[torch.Tensor]:
    """Yield what the laws of target and draft have in common [P], some positions at a time."""
    both = (torch.split(logits.flatten(0, 1), POSITIONS) for logits in (logits_WTV, logits_WTN))
    for target_PV, draft_PN in zip(*both, strict=True):
        law_PV, draft_PN = (logits.float().softmax(-1) for logits in (target_PV, draft_PN))
        # A token that one of them does not score has no probability there.
        width = min(law_PV.shape[-1], draft_PN.shape[-1])
        law_PN = law_PV[:, :width] if chosen_N is None else law_PV[:, chosen_N]
        yield torch.minimum(law_PN, draft_PN[:, :width]).sum(-1)
