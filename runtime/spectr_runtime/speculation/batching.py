"""The rows of the batch as the tensors that a round works on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from spectr_runtime.drafting.batch import Fresh, Rows
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.offers import Offers, given_to
from spectr_runtime.speculation.plan import Plan


class Batching:
    """Makes the tensors of every round. What follows from the parameters of rows is made anew when the rows change.

    Args:
        vocabulary: Number of tokens of the vocabulary.
        device: Device of the tensors.
        headed: Whether the draft is a head on the target.
    """

    def __init__(self, vocabulary: int, device: torch.device, *, headed: bool = False) -> None:
        self._headed = headed
        self._vocabulary = vocabulary
        self._device = device
        self._batch: list[Row | None] = []
        self._sampling: Sampling
        self._logprobs: WantedLogprobs | None
        self._adjusts: bool

    def rows(self, batch: Sequence[Row | None], behind: Collection[int], plan: Plan, offers: Offers = ()) -> Rows:
        """Return the batch as it is at the start of a round.

        Some of its rows take no part: nobody reads what they decode, and they write where the caches hold nothing of
        their texts. A free row decodes a text of one token, and a row that is still read one that goes on where its
        caches end.

        Args:
            batch: The rows by their index in the caches, at least one; None for a free one.
            behind: The indices of rows that are still read.
            plan: The plan of the round.
            offers: What is given to the rows; nothing by default.
        """
        if [*map(id, batch)] != [*map(id, self._batch)]:
            # Nobody reads the tokens of a free row. With another's temperature, rows may be greedy all together.
            idle = SamplingParams(temperature=next(row.request.params.temperature for row in batch if row is not None))
            params = [idle if row is None else row.request.params for row in batch]
            self._sampling = Sampling.of(params, self._vocabulary, self._device)
            self._logprobs = WantedLogprobs.of(params, self._vocabulary)
            self._adjusts = any(one.adjusts for one in params)
            self._batch = [*batch]
        lengths = [_length(row, index in behind) for index, row in enumerate(batch)]
        facts = [(0, 0, 0) if row is None else (*row.last, row.seed) for row in batch]
        length_B, before_B, last_B, seed_B = torch.tensor([lengths, *zip(*facts, strict=True)], device=self._device)
        return Rows(
            length_B=length_B,
            last_B2=torch.stack([before_B, last_B], 1),
            seed_B=seed_B,
            sampling=self._sampling,
            adjustment=Adjustment.of(batch, self._vocabulary, self._device) if self._adjusts else None,
            logprobs=self._logprobs,
            longest=max(lengths),
            given=given_to(batch, plan, offers, self._device),
            fresh=self._fresh(lengths) if self._headed else None,
        )

    def _fresh(self, lengths: Sequence[int]) -> Fresh:
        """Return the tokens that a head was not fed, of rows of some lengths."""
        counts, tokens = list[int](), list[Sequence[int]]()
        for row, length in zip(self._batch, lengths, strict=True):
            count = 1 if row is None else max(length - 1 - row.cached["draft"], 1)
            counts.append(count)
            tokens.append((0,) if row is None else row.tokens[length - count : length])
        most = max(counts)
        padded = [[*some, *[0] * (most - len(some))] for some in tokens]
        return Fresh(torch.tensor(padded, device=self._device), torch.tensor(counts, device=self._device), most)


def _length(row: Row | None, behind: bool) -> int:
    if row is None:
        return 1
    held = max(row.cached["target"] + 1, row.cached["draft"] + 2)  # a round feeds the last tokens of a text
    return min(held, row.length) if behind else row.length
