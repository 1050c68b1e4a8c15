"""What the texts of rows change in their logits: kept on the device, where every round adds what it wrote."""

# B rows of a round, C rows that are adjusted, D depth of the tree, R rows of the batch, V vocabulary.
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.rows.row import Row


class WrittenTexts:
    """Biases, end tokens, and the tokens of prompts and completions, for the rows whose logits are changed.

    Args:
        rows: Number of rows of the batch.
        vocabulary: Size of the vocabulary that draft and target share.
        device: Device of the tensors.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        sizes = rows, vocabulary
        self._bias_RV = torch.zeros(sizes, device=device)
        self._count_RV = torch.zeros(sizes, device=device)
        self._prompt_RV = torch.zeros(sizes, dtype=torch.bool, device=device)
        self._end_RV = torch.zeros(sizes, dtype=torch.bool, device=device)

    def load(self, index: int, row: Row) -> None:
        """Take a row as it is now."""
        self._fill(self._bias_RV[index], dict(row.request.params.logit_bias))
        self._fill(self._count_RV[index], row.written_counts)
        self._mark(self._prompt_RV[index], row.prompt)
        self._mark(self._end_RV[index], row.end_tokens)

    def add(self, tokens_BD1: torch.Tensor, takes_part_B: torch.Tensor) -> None:
        """Count tokens that a round wrote.

        Args:
            tokens_BD1: The tokens, -1 padded.
            takes_part_B: Of which rows they count; bool.
        """
        counted_BD1 = (tokens_BD1 >= 0) & takes_part_B[:, None]
        self._count_RV[: len(tokens_BD1)].scatter_add_(1, tokens_BD1.clamp(min=0), counted_BD1.float())

    def adjustment(self, rows_C: torch.Tensor, penalties_3C: torch.Tensor, held_C: torch.Tensor) -> Adjustment:
        """Return the adjustment of some rows.

        Args:
            rows_C: Their indices; int64.
            penalties_3C: Their presence, frequency and repetition penalties; float32.
            held_C: How many tokens each must still write before it may end.
        """
        presence_C11, frequency_C11, repetition_C11 = penalties_3C[:, :, None, None]
        return Adjustment(
            rows_C=rows_C,
            presence_C11=presence_C11,
            frequency_C11=frequency_C11,
            repetition_C11=repetition_C11,
            bias_C1V=self._bias_RV[rows_C][:, None],
            prompt_C1V=self._prompt_RV[rows_C][:, None],
            written_C1V=self._count_RV[rows_C][:, None],
            ends_C1V=self._end_RV[rows_C][:, None],
            held_C1=held_C[:, None],
        )

    def _fill(self, kept_V: torch.Tensor, values: Mapping[int, float]) -> None:
        kept_V.zero_()
        kept_V[self._tokens(values)] = torch.tensor([*values.values()], dtype=torch.float32, device=kept_V.device)

    def _mark(self, kept_V: torch.Tensor, tokens: Collection[int]) -> None:
        kept_V.zero_()
        kept_V[self._tokens(tokens)] = True

    def _tokens(self, tokens: Collection[int]) -> torch.Tensor:
        return torch.tensor([*tokens], dtype=torch.int64, device=self._bias_RV.device)


def adjustment_of(batch: Sequence[Row], vocabulary: int, device: torch.device) -> Adjustment | None:
    """Return the adjustment of rows as they are now; None if none of them asks for any.

    Args:
        batch: The rows by their index.
        vocabulary: Size of the vocabulary that draft and target share.
        device: Device of the tensors.
    """
    asking = {index: row for index, row in enumerate(batch) if row.request.params.adjusts}
    if not asking:
        return None
    texts = WrittenTexts(len(batch), vocabulary, device)
    for index, row in asking.items():
        texts.load(index, row)
    params = [row.request.params for row in asking.values()]
    return texts.adjustment(
        torch.tensor([*asking], device=device),
        torch.tensor([*zip(*map(penalties, params), strict=True)], dtype=torch.float32, device=device),
        torch.tensor([row.request.params.min_tokens - row.written for row in asking.values()], device=device),
    )


def penalties(params: SamplingParams) -> tuple[float, float, float]:
    """Return the presence, frequency and repetition penalties of a row."""
    return params.presence_penalty, params.frequency_penalty, params.repetition_penalty
