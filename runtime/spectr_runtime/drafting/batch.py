"""The batch at the start of a round, and the call that feeds a part of its draft tree to a model."""

# B rows, N tree nodes with the root, T consecutive nodes of those, M nodes whose laws are wanted, V vocabulary.
from __future__ import annotations

import dataclasses

import torch

from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import aligned, block_mask
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_select.tree import as_index


@dataclasses.dataclass(frozen=True, slots=True)
class Given:
    """Drafts that stand before the round begins.

    Attributes:
        tokens_BN: Tokens of the nodes of the round's tree, -1 where nothing is given; the root is not given.
        limit_B: How many tokens of a path a row may accept at most: 0 for a row that drafts nothing; int64.
        plain: Whether some row drafts nothing, as the host knows without waiting for the device.
    """

    tokens_BN: torch.Tensor
    limit_B: torch.Tensor
    plain: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Fresh:
    """The tokens that a head on the target is fed at the start of a round.

    Attributes:
        tokens_BT: The last tokens of each row's text, those that the head was not fed and at least the root; int64.
            They begin in the first column, and the root is the last of them.
        count_B: Their number; int64.
        most: The largest number, as the host knows without waiting for the device.
    """

    tokens_BT: torch.Tensor
    count_B: torch.Tensor
    most: int


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """The state of the batch at the start of a round.

    The target's cache holds the keys and values of all tokens of a row's text but the last one. That last token is the
    root of the round's tree, and the round feeds it.

    Attributes:
        length_B: Tokens of each row's text, at least 1; int64.
        last_B2: The last two tokens, the root second; a text of one token repeats it.
        seed_B: Seeds of the rows' noise; int64.
        sampling: Temperatures and truncations of the rows.
        adjustment: Penalties and biases of the rows; None if no row has any.
        logprobs: Which rows want log-probabilities; None if no row does.
        longest: The largest length, as a number that the host knows without waiting for the device.
        given: Drafts that the host looked up for some rows; None if it gave nothing to any row.
        fresh: What a head is fed; None where there is none.
    """

    length_B: torch.Tensor
    last_B2: torch.Tensor
    seed_B: torch.Tensor
    sampling: Sampling
    adjustment: Adjustment | None
    logprobs: WantedLogprobs | None
    longest: int
    given: Given | None = None
    fresh: Fresh | None = None

    @property
    def root_B(self) -> torch.Tensor:
        """The index of each row's root in its text, which is its slot in the cache and its position alike."""
        return self.length_B - 1

    def or_given(self, tokens_BW: torch.Tensor, nodes: slice) -> torch.Tensor:
        """Return the tokens of some nodes, those in place of which others are given replaced."""
        if self.given is None:
            return tokens_BW
        given_BW = self.given.tokens_BN[:, nodes]
        return torch.where(given_BW < 0, tokens_BW, given_BW)

    def laws(
        self, logits_BMV: torch.Tensor, tokens_BN: torch.Tensor, sees_MN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the laws of the tokens after M nodes, for draft and target alike.

        Args and results are those of ``Adjustment.apply`` and ``Sampling.laws``.
        """
        if self.adjustment is not None:
            logits_BMV = self.adjustment.apply(logits_BMV, tokens_BN, sees_MN)
        return self.sampling.laws(logits_BMV)


def tree_call(
    engine: Engine, rows: Rows, tokens_BT: torch.Tensor, depths: tuple[int, ...], first: int, sees_TN: torch.Tensor
) -> Call:
    """Return the call that feeds consecutive nodes of the tree.

    Node n is written to slot ``root + n``, and its position in the text is ``root + depth``: siblings share a position.

    Args:
        engine: The engine that will run the call.
        rows: State of the batch.
        tokens_BT: Tokens of the nodes.
        depths: Depths of the nodes; the root has depth 0.
        first: Number of the first node.
        sees_TN: Which of the tree's nodes each fed node has on its path, itself among them; bool.
    """
    device = tokens_BT.device
    position_BT = rows.root_B[:, None] + as_index(depths, device)
    return Call(
        input_ids_BT=tokens_BT,
        # A tree may reach beyond the last position that the model knows, but its row ends before.
        position_ids_BT=position_BT.clamp(max=engine.spec.max_positions - 1),
        attention_mask_B1TL=block_mask(rows.root_B, sees_TN, aligned(rows.longest - 1 + sees_TN.shape[1])),
        write_index_B=rows.root_B + first,
        logit_index_BM=torch.arange(tokens_BT.shape[1], device=device).expand(len(tokens_BT), -1),
    )
