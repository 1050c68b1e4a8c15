"""What a source of drafts is: something that fills the tree of a round."""

# B rows, D depth of the tree, F width of the features, N tree nodes with the root, P nodes with children, V vocabulary.
from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from spectr_runtime.drafting.batch import Rows
from spectr_select import DraftTree, Noise


class Drafts(NamedTuple):
    """The filled tree of a round.

    Attributes:
        tokens_BN: The tokens of the nodes, the root's first; int64.
        law_BPV: The laws that the children of the leading nodes were drawn from; None for point masses, tokens that
            were certain before any number was drawn.
        sound_B: Which rows' laws are finite.
    """

    tokens_BN: torch.Tensor
    law_BPV: torch.Tensor | None
    sound_B: torch.Tensor


class Source(Protocol):
    """Fills the trees of rounds."""

    def draft(self, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
        """Return drafts for all rows.

        What is drafted for a row may depend on its text and on the round's noise, and what may be drafted at all is
        settled before: how many tokens a tree has must not depend on which tokens were drawn, unless the rule writes
        the same text whatever is drafted.

        Args:
            rule: Name of the rule that selects, which says how siblings are drawn.
            tree: The tree of the round.
            rows: State of the batch. What it has given goes before the source's own drafts.
            noise: The round's noise.
        """

    def keep(self, rows: Rows, accepted_BD: torch.Tensor, size: int, states_BNF: torch.Tensor | None) -> None:
        """Take note of the nodes that a round accepted.

        Args:
            rows: State of the batch at the start of the round.
            accepted_BD: Numbers of the accepted nodes in path order, -1 padded.
            size: Number of nodes of the tree.
            states_BNF: What the target gave out for the nodes beside its logits; None if it gives out nothing.
        """

    def lacking(self, accepted: int) -> int | None:
        """Return how many of a row's last tokens the cache of a draft lacks after a round that it was fed in.

        Args:
            accepted: How many drafts of the row were accepted.

        Returns:
            The number; None if no cache of a draft was fed.
        """
