"""The log-probabilities of the tokens that a round wrote, under the target's own logits."""

# B rows, N tree nodes with the root, D depth of the tree, R rows that want log-probabilities, V vocabulary, P tokens
# that are reported with each, itself the first.
from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from spectr_runtime.rows.row import Scored


class Logprobs(NamedTuple):
    """The log-probabilities of tokens: of each token itself, then of the most probable ones.

    Attributes:
        tokens_RDP: The tokens; int64.
        logprobs_RDP: Their log-probabilities; float32.
    """

    tokens_RDP: torch.Tensor
    logprobs_RDP: torch.Tensor

    def listed(self) -> list[list[list[Scored]]]:
        """Return them as lists, per row and token; the device is waited for."""
        rows = zip(self.tokens_RDP.tolist(), self.logprobs_RDP.tolist(), strict=True)
        return [[list(zip(*pair, strict=True)) for pair in zip(*row, strict=True)] for row in rows]


@dataclasses.dataclass(frozen=True, slots=True)
class WantedLogprobs:
    """Which rows of a batch want log-probabilities.

    Attributes:
        rows_R: Their indices in the batch; int64.
        most: The largest number of most probable tokens that any of them wants.
        vocabulary: Size of the vocabulary that draft and target share.
    """

    rows_R: torch.Tensor
    most: int
    vocabulary: int

    def gather(self, logits_BNV: torch.Tensor, accepted_BD: torch.Tensor, tokens_BD1: torch.Tensor) -> Logprobs:
        """Return the log-probabilities of a round's tokens, for the rows that want them.

        Args:
            logits_BNV: The target's logits after every node, before adjustments, temperature and truncation.
            accepted_BD: Accepted nodes in path order, -1 padded.
            tokens_BD1: The tokens that were written, -1 padded; what is found for the padding means nothing.
        """
        tokens_RD1 = tokens_BD1[self.rows_R].clamp(min=0)
        # A token was drawn after its predecessor: the first after the root, the next after the first accepted node.
        nodes_RD1 = torch.nn.functional.pad(accepted_BD[self.rows_R].clamp(min=0), (1, 0))
        logits_RDV = logits_BNV[self.rows_R[:, None], nodes_RD1, : self.vocabulary]
        return score(logits_RDV, tokens_RD1, self.most)


def score(logits_RDV: torch.Tensor, tokens_RD: torch.Tensor, most: int) -> Logprobs:
    """Return the log-probabilities of tokens under the logits that they were drawn from.

    Args:
        logits_RDV: The logits, as wide as the vocabulary.
        tokens_RD: The tokens.
        most: Number of most probable tokens to report with each.
    """
    logprobs_RDV = logits_RDV.float().log_softmax(-1)
    top = logprobs_RDV.topk(min(most, logits_RDV.shape[-1]), dim=-1)
    return Logprobs(
        torch.cat([tokens_RD[..., None], top.indices], -1),
        torch.cat([logprobs_RDV.gather(-1, tokens_RD[..., None]), top.values], -1),
    )
