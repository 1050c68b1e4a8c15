"""The rows of the batch on the device: what a round is told of them, and what rounds leave there for the next ones.

A round that begins before the host has seen what the last one wrote goes on from what that one left here: the lengths
of the texts, their last tokens, what was written, and how often each token was where that matters.
"""

# B rows of a round, D depth of the tree, R rows of the batch, V vocabulary.
from __future__ import annotations

from collections.abc import Mapping

import torch

from spectr_runtime.drafting.batch import Fresh, Given, Rows
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.laws.written import WrittenTexts
from spectr_runtime.replay.transfer import numbers
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.plan import MAX_NODES
from spectr_runtime.speculation.round import Emitted
from spectr_runtime.speculation.shape import Shape

Told = Mapping[str, torch.Tensor]  # what a round is told, by the names that ``Batching`` gives it


class BatchState:
    """The state of the batch on the device.

    Args:
        rows: Number of rows of the batch.
        vocabulary: Number of tokens of the vocabulary.
        device: The device.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device) -> None:
        self._rows, self._vocabulary, self._device = rows, vocabulary, device
        self._length_R = torch.ones(rows, dtype=torch.int64, device=device)
        self._last_R2 = torch.zeros((rows, 2), dtype=torch.int64, device=device)
        self._wrote_RT = torch.zeros((rows, MAX_NODES), dtype=torch.int64, device=device)
        self._count_R = torch.zeros(rows, dtype=torch.int64, device=device)
        self._texts: WrittenTexts | None = None

    def load(self, index: int, row: Row) -> None:
        """Take what the text of a row changes in its logits, before a round in which the row is not carried."""
        if row.request.params.adjusts:
            self._written.load(index, row)

    @property
    def _written(self) -> WrittenTexts:
        """Memory that only rows with penalties or biases need."""
        if self._texts is None:
            self._texts = WrittenTexts(self._rows, self._vocabulary, self._device)
        return self._texts

    def rows(self, shape: Shape, told: Told) -> Rows:
        """Return the batch at the start of a round."""
        length_B, before_B, last_B, seed_B, _, _ = told["texts"]
        carried_B = told["flags"][0].bool()
        length_B = torch.where(carried_B, self._length_R[: shape.rows], length_B)
        last_B2 = torch.where(carried_B[:, None], self._last_R2[: shape.rows], torch.stack([before_B, last_B], 1))
        return Rows(
            length_B=length_B,
            last_B2=last_B2,
            seed_B=seed_B,
            sampling=self._sampling(shape, told),
            adjustment=self._adjustment(shape, told, length_B) if shape.adjusted else None,
            logprobs=WantedLogprobs(told["scored"], shape.most_scored, self._vocabulary) if shape.scored else None,
            longest=shape.longest,
            given=_given(shape, told),
            fresh=self._fresh(shape, told) if shape.fresh else None,
        )

    def keep(self, shape: Shape, told: Told, rows: Rows, emitted: Emitted) -> None:
        """Take what a round wrote.

        A row that reaches its limit has ended, whatever it writes until the host knows that; it stays within its slots.
        """
        limit_B, takes_part_B = told["texts"][4], told["flags"][1].bool()
        written_B = emitted.accepted_B + 1
        self._length_R[: shape.rows] = torch.minimum(rows.length_B + written_B, limit_B)
        text_BT = torch.cat([rows.last_B2[:, 1:], emitted.tokens_BD1], 1)
        self._wrote_RT[: shape.rows, : emitted.tokens_BD1.shape[1]] = emitted.tokens_BD1.clamp(min=0)
        self._count_R[: shape.rows] = written_B
        self._last_R2[: shape.rows] = text_BT.gather(1, torch.stack([written_B - 1, written_B], 1))
        if shape.adjusted:
            self._written.add(emitted.tokens_BD1, takes_part_B)

    def _fresh(self, shape: Shape, told: Told) -> Fresh:
        """Return what a head is fed: what the last round wrote, of rows of which the host does not know that yet."""
        unread_B = told["flags"][2].bool()
        tokens_BT = torch.where(unread_B[:, None], self._wrote_RT[: shape.rows, : shape.fresh], told["fresh"])
        count_B = torch.where(unread_B, self._count_R[: shape.rows], told["fresh_count"])
        return Fresh(tokens_BT, count_B, shape.fresh)

    def _sampling(self, shape: Shape, told: Told) -> Sampling:
        greedy_B, top_k_B, _ = told["wholes"]
        temperature_B, top_p_B, min_p_B, *_ = numbers(told["numbers"]).float()
        truncated_C = told["truncated"]
        return Sampling(
            temperature_B=temperature_B,
            greedy_B=greedy_B.bool(),
            truncated_C=truncated_C,
            top_k_C=top_k_B[truncated_C],
            top_p_C=top_p_B[truncated_C],
            min_p_C=min_p_B[truncated_C],
            any_greedy=shape.greedy != "none",
            all_greedy=shape.greedy == "all",
            vocabulary=self._vocabulary,
        )

    def _adjustment(self, shape: Shape, told: Told, length_B: torch.Tensor) -> Adjustment:
        """Return the adjustment of rows; the tokens that they wrote are those behind their prompts."""
        held_B = told["wholes"][2] - (length_B - told["texts"][5])
        rows_C = told["adjusted"]
        return self._written.adjustment(rows_C, numbers(told["numbers"])[3:].float()[:, rows_C], held_B[rows_C])


def _given(shape: Shape, told: Told) -> Given | None:
    if shape.given == "no":
        return None
    return Given(told["given"], told["given_limit"], plain=shape.given == "plain")
