"""From logits to the law that a token is drawn from: temperature, top-k, top-p and min-p, each row with its own.

Draft and target go through the same function. The law that it returns for the draft is the one that drafts are drawn
from and the one that the selection rule is told, which is what keeps speculation lossless.
"""

# B rows, M nodes whose laws are wanted, V vocabulary, C rows that are truncated.
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from spectr_runtime.rows.request import SamplingParams


class RowSampling(NamedTuple):
    """The sampling parameters of a row as the numbers that laws are computed with.

    Attributes:
        temperature: The temperature; 1 for temperature 0.
        greedy: Whether the temperature is 0.
        top_k: How many tokens are kept; the size of the vocabulary for all.
        top_p: Which probability is kept; infinite for all of it.
        min_p: Which share of the largest probability a token must have; 0 keeps all.
    """

    temperature: float
    greedy: bool
    top_k: int
    top_p: float
    min_p: float

    @staticmethod
    def of(params: SamplingParams, vocabulary: int) -> RowSampling:
        """Return the numbers for some parameters and a vocabulary of a size."""
        top_k = min(params.top_k or vocabulary, vocabulary)
        # Sums of rounded probabilities can reach 1 before the last token, so a p of 1 would drop some tokens.
        top_p = params.top_p if params.top_p < 1 else math.inf
        return RowSampling(params.temperature or 1.0, params.temperature == 0, top_k, top_p, params.min_p)


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling parameters of a batch as tensors.

    Attributes:
        temperature_B: Temperatures; 1 for rows of temperature 0.
        greedy_B: Which rows have temperature 0; bool.
        truncated_C: Indices of the rows that drop improbable tokens.
        top_k_C: The k of each truncated row; the size of the vocabulary if it keeps all.
        top_p_C: The p of each truncated row; infinite if it keeps all.
        min_p_C: The min-p of each truncated row; 0 if it keeps all.
        any_greedy: Whether any row is greedy, as a value that the host knows without waiting for the device.
        all_greedy: Whether all are, likewise; their laws are point masses.
        vocabulary: Size of the vocabulary that draft and target share; logits of further tokens are left out.
    """

    temperature_B: torch.Tensor
    greedy_B: torch.Tensor
    truncated_C: torch.Tensor
    top_k_C: torch.Tensor
    top_p_C: torch.Tensor
    min_p_C: torch.Tensor
    any_greedy: bool
    all_greedy: bool
    vocabulary: int

    @staticmethod
    def of(params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> Sampling:
        """Gather the parameters of the rows of a batch."""
        rows = [RowSampling.of(one, vocabulary) for one in params]
        truncated = [row for row, one in zip(rows, params, strict=True) if one.truncates]

        def numbers(values: Sequence[float], dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)

        return Sampling(
            temperature_B=numbers([row.temperature for row in rows]),
            greedy_B=numbers([row.greedy for row in rows], torch.bool),
            truncated_C=numbers([index for index, one in enumerate(params) if one.truncates], torch.int64),
            top_k_C=numbers([row.top_k for row in truncated], torch.int64),
            top_p_C=numbers([row.top_p for row in truncated]),
            min_p_C=numbers([row.min_p for row in truncated]),
            any_greedy=any(row.greedy for row in rows),
            all_greedy=all(row.greedy for row in rows),
            vocabulary=vocabulary,
        )

    def laws(self, logits_BMV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the laws that the next tokens are drawn from.

        Args:
            logits_BMV: A model's logits, float32, at least as wide as the shared vocabulary; not changed.

        Returns:
            The laws, float32 [B, M, V], and which rows are sound [B]. A row with a logit of NaN or plus infinity is not
            sound; it gets laws that mean nothing and are finite, so that nothing fails on the device before the host
            drops the row.
        """
        logits_BMV = logits_BMV[..., : self.vocabulary]
        if self.all_greedy:
            most_BM1, best_BM1 = logits_BMV.max(-1, keepdim=True)
            return _one_hot(logits_BMV, best_BM1), most_BM1[..., 0].isfinite().all(-1)
        scaled_BMV = logits_BMV / self.temperature_B[:, None, None]
        if len(self.truncated_C):
            kept_CMV = truncate(scaled_BMV[self.truncated_C], self.top_k_C, self.top_p_C)
            scaled_BMV[self.truncated_C] = drop_below(kept_CMV, self.min_p_C)
        law_BMV = scaled_BMV.softmax(-1)
        # One logit of NaN or plus infinity makes its whole law NaN, so its first entry shows it.
        sound_B = law_BMV[:, :, 0].isfinite().all(-1)
        law_BMV.nan_to_num_(nan=1 / law_BMV.shape[-1])
        if self.any_greedy:
            one_hot_BMV = _one_hot(logits_BMV, logits_BMV.argmax(-1, keepdim=True))
            law_BMV = torch.where(self.greedy_B[:, None, None], one_hot_BMV, law_BMV)
        return law_BMV, sound_B


def _one_hot(logits_BMV: torch.Tensor, best_BM1: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(logits_BMV, memory_format=torch.contiguous_format).scatter_(-1, best_BM1, 1.0)


def truncate(logits_CMV: torch.Tensor, top_k_C: torch.Tensor, top_p_C: torch.Tensor) -> torch.Tensor:
    """Return the logits with those outside the top k, then those outside the top p of the rest, at minus infinity.

    The top p is the nucleus: the smallest set of most probable tokens whose probability reaches p (Holtzman et al.,
    arXiv 1904.09751). Equal logits are ranked by token id.
    """
    ordered_CMV, token_CMV = logits_CMV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_CMV.shape[-1], device=logits_CMV.device)
    ordered_CMV = ordered_CMV.masked_fill(rank_V >= top_k_C[:, None, None], -torch.inf)
    law_CMV = ordered_CMV.softmax(-1)
    before_CMV = law_CMV.cumsum(-1) - law_CMV
    outside_CMV = (before_CMV >= top_p_C[:, None, None]) & (rank_V > 0)
    return torch.empty_like(logits_CMV).scatter_(-1, token_CMV, ordered_CMV.masked_fill(outside_CMV, -torch.inf))


def drop_below(logits_CMV: torch.Tensor, min_p_C: torch.Tensor) -> torch.Tensor:
    """Return the logits with those of tokens less probable than a share of the most probable one at minus infinity.

    This is min-p sampling (Nguyen et al., arXiv 2407.01082).
    """
    least_CM1 = logits_CMV.amax(-1, keepdim=True) + min_p_C.log()[:, None, None]
    return logits_CMV.masked_fill(logits_CMV < least_CM1, -torch.inf)
