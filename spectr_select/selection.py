"""What a round keeps of its draft."""

# B rows, D depth of the tree.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectr_select.tree import DraftTree


@dataclass(frozen=True, slots=True)
class Selection:
    """An accepted path and one more token.

    Attributes:
        accepted_BD: Accepted node numbers from the root's child downwards, padded with -1; int64.
        count_B: How many they are; int64.
        token_B: The token after them, the correction of a rejected draft or the bonus after a whole path; int64.
    """

    accepted_BD: torch.Tensor
    count_B: torch.Tensor
    token_B: torch.Tensor


def selection_at(tree: DraftTree, node_B: torch.Tensor, token_B: torch.Tensor) -> Selection:
    """The selection that accepts the path to a node and adds a token."""
    accepted_BD = tree.path_table(node_B.device)[node_B]
    return Selection(accepted_BD, (accepted_BD >= 0).sum(1), token_B)


def joined(parts: Sequence[Selection]) -> Selection:
    """The selections of some rows and of those after them, as one."""
    return Selection(
        accepted_BD=torch.cat([part.accepted_BD for part in parts]),
        count_B=torch.cat([part.count_B for part in parts]),
        token_B=torch.cat([part.token_B for part in parts]),
    )
