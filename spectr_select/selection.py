"""What a round keeps of its draft."""

# B rows, D depth of the tree.
from __future__ import annotations

from dataclasses import dataclass

import torch


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
