"""The rows of the batch as the tensors that a round works on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.round import Rows

IDLE = SamplingParams()  # the parameters of a free row, whose tokens nobody reads


def sampling_of(batch: Sequence[Row | None], vocabulary: int, device: torch.device) -> Sampling:
    """Return the temperatures and truncations of the batch, which change only when its rows do."""
    return Sampling.of(_params(batch), vocabulary, device)


def rows_of(
    batch: Sequence[Row | None],
    behind: Collection[int],
    sampling: Sampling,
    vocabulary: int,
    device: torch.device,
) -> Rows:
    """Return the batch as it is at the start of a round.

    Some of its rows take no part: nobody reads what they decode, and they write where the caches hold nothing of their
    texts. A free row decodes a text of one token, and a row that is still read one that goes on where its caches end.

    Args:
        batch: The rows by their index in the caches; None for a free one.
        behind: The indices of rows that are still read.
        sampling: What ``sampling_of`` returned for these rows.
        vocabulary: Number of tokens of the vocabulary.
        device: Device of the tensors.
    """
    length = [_length(row, index in behind) for index, row in enumerate(batch)]
    return Rows(
        length_B=torch.tensor(length, device=device),
        last_B2=torch.tensor([(0, 0) if row is None else row.last for row in batch], device=device),
        seed_B=torch.tensor([0 if row is None else row.seed for row in batch], device=device),
        sampling=sampling,
        adjustment=Adjustment.of(batch, vocabulary, device),
        logprobs=WantedLogprobs.of(_params(batch), vocabulary),
        longest=max(length),
    )


def _params(batch: Sequence[Row | None]) -> list[SamplingParams]:
    return [IDLE if row is None else row.request.params for row in batch]


def _length(row: Row | None, behind: bool) -> int:
    if row is None:
        return 1
    held = max(row.cached["target"] + 1, row.cached["draft"] + 2)  # a round feeds the last tokens of a text
    return min(held, row.length) if behind else row.length
