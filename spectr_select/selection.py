"""The outcome of a round: the drafts it keeps and the token it adds."""

# B rows, D depth of the tree.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectr_select.tree import DraftTree


@dataclass(frozen=True, slots=True)
class Selection:
    """The accepted path of every row and one more token.

    Attributes:
        accepted_BD: Numbers of the accepted nodes, from the root's child downwards, padded with -1; int64.
        count_B: The number of accepted nodes; int64.
        token_B: The token after the accepted path: a correction where drafts were rejected, a bonus after a whole path;
            int64.
    """

    accepted_BD: torch.Tensor
    count_B: torch.Tensor
    token_B: torch.Tensor


def selection_at(tree: DraftTree, node_B: torch.Tensor, token_B: torch.Tensor) -> Selection:
    """Return the selection that accepts the path to a node and adds a token."""
    accepted_BD = tree.path_table(node_B.device)[node_B]
    return Selection(accepted_BD, (accepted_BD >= 0).sum(1), token_B)


def joined(parts: Sequence[Selection]) -> Selection:
    """Join the selections of consecutive portions of the rows."""
    return Selection(
        accepted_BD=torch.cat([part.accepted_BD for part in parts]),
        count_B=torch.cat([part.count_B for part in parts]),
        token_B=torch.cat([part.token_B for part in parts]),
    )
