"""The log-probabilities of the tokens that a round wrote, under the target's own logits."""

# B rows, N tree nodes with the root, D depth of the tree, R rows that want log-probabilities, V vocabulary.
from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.rows.row import Scored


@dataclasses.dataclass(frozen=True, slots=True)
class WantedLogprobs:
    """Which rows of a batch want log-probabilities.

    Attributes:
        rows: Their indices in the batch.
        most: The largest number of most probable tokens that any of them wants.
        vocabulary: Size of the vocabulary that draft and target share.
    """

    rows: tuple[int, ...]
    most: int
    vocabulary: int

    @staticmethod
    def of(params: Sequence[SamplingParams], vocabulary: int) -> WantedLogprobs | None:
        """Gather the rows that want log-probabilities; return None if no row does."""
        wanted = {row: one.logprobs for row, one in enumerate(params) if one.logprobs is not None}
        return WantedLogprobs(tuple(wanted), max(wanted.values()), vocabulary) if wanted else None

    def gather(
        self, logits_BNV: torch.Tensor, accepted_BD: torch.Tensor, tokens_BD1: torch.Tensor
    ) -> dict[int, list[list[Scored]]]:
        """Return the log-probabilities of a round's tokens.

        Args:
            logits_BNV: The target's logits after every node, before adjustments, temperature and truncation.
            accepted_BD: Accepted nodes in path order, -1 padded.
            tokens_BD1: The tokens that were written, -1 padded.

        Returns:
            For each row that wants them, one list per column of ``tokens_BD1``: the token with its log-probability,
            then the most probable tokens with theirs. The lists of padded columns mean nothing.
        """
        rows_R = torch.tensor(self.rows, device=logits_BNV.device)
        tokens_RD1 = tokens_BD1[rows_R].clamp(min=0)
        # A token was drawn after its predecessor: the first after the root, the next after the first accepted node.
        nodes_RD1 = torch.nn.functional.pad(accepted_BD[rows_R].clamp(min=0), (1, 0))
        logits_RDV = logits_BNV[rows_R[:, None], nodes_RD1, : self.vocabulary]
        return dict(zip(self.rows, score(logits_RDV, tokens_RD1, self.most), strict=True))


def score(logits_RDV: torch.Tensor, tokens_RD: torch.Tensor, most: int) -> list[list[list[Scored]]]:
    """Return the log-probabilities of tokens under the logits that they were drawn from.

    Args:
        logits_RDV: The logits, as wide as the vocabulary.
        tokens_RD: The tokens.
        most: Number of most probable tokens to report with each.

    Returns:
        Per row and token: the token with its log-probability, then the most probable tokens with theirs.
    """
    logprobs_RDV = logits_RDV.float().log_softmax(-1)
    top = logprobs_RDV.topk(min(most, logits_RDV.shape[-1]), dim=-1)
    token = torch.cat([tokens_RD[..., None], top.indices], -1).tolist()
    logprob = torch.cat([logprobs_RDV.gather(-1, tokens_RD[..., None]), top.values], -1).tolist()
    return [
        [list(zip(*pair, strict=True)) for pair in zip(*row, strict=True)] for row in zip(token, logprob, strict=True)
    ]
