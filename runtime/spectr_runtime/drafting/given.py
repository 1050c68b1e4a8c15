"""Drafts that the host looked up before the round, or none."""

# B rows, D depth of the tree, F width of features, N tree nodes.
from __future__ import annotations

import torch

from spectr_runtime.drafting.batch import Rows
from spectr_runtime.drafting.source import Drafts
from spectr_select import DraftTree, Noise


class GivenDrafts:
    """Fills the tree with what is given, and what is not with the root's token, which is as good as any other.

    A tree that is the root alone is that of plain decoding.
    """

    def draft(self, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
        """See ``Source``."""
        tokens_BN = rows.last_B2[:, 1:].repeat(1, tree.size)
        tokens_BN = rows.or_given(tokens_BN, slice(0, tree.size))
        return Drafts(tokens_BN, None, torch.ones_like(rows.length_B, dtype=torch.bool))

    def keep(self, rows: Rows, accepted_BD: torch.Tensor, size: int, states_BNF: torch.Tensor | None) -> None:
        """See ``Source``."""

    def lacking(self, accepted: int) -> int | None:
        """See ``Source``."""
        return None
