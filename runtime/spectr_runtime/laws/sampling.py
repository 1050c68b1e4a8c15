"""From logits to the law that a token is drawn from: temperature, top-k, top-p, min-p, per row.

Draft and target go through the same function, and the law that it returns is both drawn from and tested against.
"""

# B rows, M positions, V vocabulary, C rows that are truncated.
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from spectr_runtime.rows.request import SamplingParams


@dataclasses.dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling parameters of a batch as tensors.

    Attributes:
        temperature_B: Temperatures, with 1 in place of 0.
        greedy_B: Rows of temperature 0.
        truncated_C: Rows that drop improbable tokens.
        top_k_C: Their k, with the vocabulary's size in place of 0.
        top_p_C: Their p, infinite in place of 1.
        min_p_C: Their smallest share of the most probable token's probability.
        any_greedy: Whether some row is greedy; known to the host, so that nothing waits for the device.
        vocabulary: Tokens that draft and target share; logits behind them are left out.
    """

    temperature_B: torch.Tensor
    greedy_B: torch.Tensor
    truncated_C: torch.Tensor
    top_k_C: torch.Tensor
    top_p_C: torch.Tensor
    min_p_C: torch.Tensor
    any_greedy: bool
    vocabulary: int

    @staticmethod
    def of(params: Sequence[SamplingParams], vocabulary: int, device: torch.device) -> Sampling:
        """Gather the parameters of the rows of a batch."""
        truncated = [row for row, one in enumerate(params) if one.truncates]
        return Sampling(
            temperature_B=torch.tensor([float(one.temperature or 1) for one in params], device=device),
            greedy_B=torch.tensor([one.temperature == 0 for one in params], device=device),
            truncated_C=torch.tensor(truncated, dtype=torch.int64, device=device),
            top_k_C=torch.tensor(
                [min(params[row].top_k or vocabulary, vocabulary) for row in truncated],
                dtype=torch.int64,
                device=device,
            ),
            # Sums of rounded probabilities reach 1 before the last token, so that 1 would drop some.
            top_p_C=torch.tensor([_or_infinite(params[row].top_p) for row in truncated], device=device),
            min_p_C=torch.tensor([float(params[row].min_p) for row in truncated], device=device),
            any_greedy=any(one.temperature == 0 for one in params),
            vocabulary=vocabulary,
        )

    def laws(self, logits_BMV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The laws that the next tokens are drawn from.

        Args:
            logits_BMV: A model's logits, float32, at least as wide as the shared vocabulary. Left as they are.

        Returns:
            The laws, float32 [B, M, V], and which rows are sound [B]: a row with a logit of NaN or
            plus infinity is not, and gets uniform laws so that it disturbs nobody until the host drops it.
        """
        logits_BMV = logits_BMV[..., : self.vocabulary]
        scaled_BMV = logits_BMV / self.temperature_B[:, None, None]
        if len(self.truncated_C):
            kept_CMV = truncate(scaled_BMV[self.truncated_C], self.top_k_C, self.top_p_C)
            scaled_BMV[self.truncated_C] = drop_below(kept_CMV, self.min_p_C)
        law_BMV = scaled_BMV.softmax(-1)
        sound_B = law_BMV[:, :, 0].isfinite().all(-1)
        law_BMV.nan_to_num_(nan=1 / law_BMV.shape[-1])
        if self.any_greedy:
            best_BM1 = logits_BMV.argmax(-1, keepdim=True)
            one_hot_BMV = torch.zeros_like(law_BMV).scatter_(-1, best_BM1, 1.0)
            law_BMV = torch.where(self.greedy_B[:, None, None], one_hot_BMV, law_BMV)
        return law_BMV, sound_B


def _or_infinite(top_p: float) -> float:
    return top_p if top_p < 1 else math.inf


def truncate(logits_CMV: torch.Tensor, top_k_C: torch.Tensor, top_p_C: torch.Tensor) -> torch.Tensor:
    """Set the logits outside the top k, and then outside the top p of what is left, to minus infinity.

    The nucleus is the smallest set of most probable tokens whose probability reaches p (Holtzman et al., 2020). Equal
    logits are ranked by token id.
    """
    ordered_CMV, token_CMV = logits_CMV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(logits_CMV.shape[-1], device=logits_CMV.device)
    ordered_CMV = ordered_CMV.masked_fill(rank_V >= top_k_C[:, None, None], -torch.inf)
    law_CMV = ordered_CMV.softmax(-1)
    before_CMV = law_CMV.cumsum(-1) - law_CMV
    outside_CMV = (before_CMV >= top_p_C[:, None, None]) & (rank_V > 0)
    return torch.empty_like(logits_CMV).scatter_(-1, token_CMV, ordered_CMV.masked_fill(outside_CMV, -torch.inf))


def drop_below(logits_CMV: torch.Tensor, min_p_C: torch.Tensor) -> torch.Tensor:
    """Set the logits of tokens less probable than a share of the most probable one to minus infinity.

    Min-p sampling (Nguyen et al., arXiv 2407.01082).
    """
    least_CM1 = logits_CMV.amax(-1, keepdim=True) + min_p_C.log()[:, None, None]
    return logits_CMV.masked_fill(logits_CMV < least_CM1, -torch.inf)
