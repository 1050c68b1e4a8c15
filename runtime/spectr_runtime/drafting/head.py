"""Drafts of a head on the target: EAGLE-3 (Li et al. 2025, arXiv 2503.01840).

A head guesses what follows a token from that token and a state of the token before it. So its cache holds pairs: slot
``i`` that of token ``i + 1`` and token ``i``. Where the target has read token ``i``, the state is what the head makes
of the target's features; in a draft, it is the head's own state of the pair before.

What the head's own states wrote for drafts is never kept. A round begins by feeding the pairs of all tokens that were
written since the head was fed, with the target's features of them, and the target gives these out in every round,
whatever drafted. They are kept for the last tokens of every row.
"""

# B rows, D depth of the tree, F width of the features, H width of a state, N tree nodes, P nodes with children, T pairs
# that are fed, V vocabulary, W nodes of a level, R rows of the cache, S places for features.
from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from spectr_runtime.contract import DTYPES, Call, Engine, HeadInputs
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.drafting.batch import Fresh, Rows, tree_call
from spectr_runtime.drafting.given import GivenDrafts
from spectr_runtime.drafting.model import grow
from spectr_runtime.drafting.source import Drafts
from spectr_select import DraftTree, Noise
from spectr_select.tree import as_index

PLACES = 64  # the least tokens of a row whose features are kept


class DraftHead:
    """Draws trees from the laws of a head, and keeps its cache and the target's features.

    Args:
        engine: The head.
        depth: The most tokens that a round writes into a row besides one.

    Attributes:
        cache: The head's cache.
    """

    def __init__(self, engine: Engine, depth: int) -> None:
        assert engine.spec.head is not None
        self.cache = engine.cache
        self._engine, self._sizes = engine, engine.spec.head
        self._places = places_for(depth)
        # A row must be fed while there are places for what a round writes, whether or not that is accepted.
        self._most = self._places - 2 * (depth + 1)
        self.restart(engine.cache.rows)

    def restart(self, rows: int) -> None:
        """Forget the features of all rows, and go on with so many rows."""
        sizes = (rows, self._places, self._sizes.features)
        self._features_RSF = torch.zeros(sizes, dtype=DTYPES[self._engine.spec.dtype], device=self.cache.device)

    def move(self, source: int, target: int) -> None:
        """Copy the features of a row to another index."""
        self._features_RSF[target] = self._features_RSF[source]

    def clear(self, index: int) -> None:
        """Zero the features of a row, which may not be finite."""
        self._features_RSF[index] = 0

    def read(self, call: Call, following_BT: torch.Tensor, features_BTF: torch.Tensor, last_B: Sequence[int]) -> None:
        """Write the pairs of tokens that the target has read.

        Args:
            call: The target's call.
            following_BT: The token after each that it fed.
            features_BTF: What it gave out for them.
            last_B: For each row the index of the last token of its text that the target is to read.
        """
        rows, tokens = following_BT.shape
        unread_B1 = torch.zeros((rows, 1), dtype=torch.int64, device=following_BT.device)
        fed = dataclasses.replace(call, input_ids_BT=following_BT, logit_index_BM=unread_B1)
        self._engine.forward(dataclasses.replace(fed, head=self._inputs(features_BTF)))
        last = torch.tensor(last_B, device=following_BT.device)
        column_B = last - call.write_index_B
        read_B = (column_B >= 0) & (column_B < tokens)
        place = call.first_row + torch.arange(rows, device=last.device), last % self._places
        found_BF = features_BTF.gather(1, self._wide(column_B.clamp(0, tokens - 1)[:, None]))[:, 0]
        self._features_RSF[place] = torch.where(read_B[:, None], found_BF, self._features_RSF[place])

    def draft(self, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
        """See ``Source``."""
        logits_BMV, state_BWH = self._feed(rows, _fresh(rows))
        before = _before(rows)

        def score(level: range, tokens_BW: torch.Tensor, sees_WN: torch.Tensor) -> torch.Tensor:
            nonlocal state_BWH
            depths = tree.depths[level.start : level.stop]
            above = tree.levels[depths[0] - 1].start
            parents = as_index((tree.parents[node] - above for node in level), state_BWH.device)
            hidden_BWH = state_BWH.index_select(1, parents)
            call = tree_call(self._engine, before, tokens_BW, depths, level.start, sees_WN)
            logits_BWV, state_BWH = self._run(dataclasses.replace(call, head=self._own(hidden_BWH)))
            return logits_BWV

        return grow(rule, tree, rows, noise, logits_BMV, score)

    def keep(self, rows: Rows, accepted_BD: torch.Tensor, size: int, states_BNF: torch.Tensor | None) -> None:
        """Keep the target's features of the root and of the accepted nodes; see ``Source``."""
        assert states_BNF is not None
        nodes_BT = torch.nn.functional.pad(accepted_BD, (1, 0)).clamp(min=0)
        index_BT = rows.root_B[:, None] + torch.arange(nodes_BT.shape[1], device=nodes_BT.device)
        self._features_RSF[self._places_of(index_BT)] = states_BNF.gather(1, self._wide(nodes_BT))

    def lacking(self, accepted: int) -> int | None:
        """See ``Source``: the pairs of what a round writes are fed by the next one."""
        return accepted + 2

    def beside(self, rows: Rows) -> bool:
        """Feed the head if its rows have few places left, in a round that it does not draft in; return whether."""
        full = _fresh(rows).most > self._most
        if full:
            self._feed(rows, _fresh(rows))
        return full

    def _feed(self, rows: Rows, fresh: Fresh) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed the pairs of fresh tokens; return the logits and the state of each row's root.

        A row is padded to the tokens of the row that lacks most. Where the longest row has too few slots for that, the
        pairs are fed in several calls, and a row whose last pairs are in an earlier one is fed these again.
        """
        width = min(fresh.most, self.cache.capacity - rows.longest + 1)
        for first in range(0, fresh.most, width):
            begin_B = ((fresh.count_B - 1) // width * width).clamp(max=first)
            logits_BMV, states_BTH = self._feed_some(rows, fresh, begin_B, width)
        last_B1 = (fresh.count_B - 1 - begin_B)[:, None]
        return logits_BMV, states_BTH.gather(1, last_B1[..., None].expand(-1, -1, states_BTH.shape[2]))

    def _feed_some(
        self, rows: Rows, fresh: Fresh, begin_B: torch.Tensor, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed so many pairs of each row's fresh tokens from one of them on; return what the head gives out.

        The logits are those of a row's last token, if it is among those that are fed.
        """
        device = fresh.tokens_BT.device
        column_BT = begin_B[:, None] + torch.arange(width, device=device)
        start_B = (_before(rows).root_B + 1 - fresh.count_B).clamp(min=0) + begin_B
        index_BT = start_B[:, None] + torch.arange(width, device=device)
        inputs = self._inputs(self._features_RSF[self._places_of(index_BT)])
        # A text of one token has no token before it, and nothing that was kept for an earlier row may stand in for it.
        alone_BT = (rows.length_B == 1)[:, None].expand_as(column_BT)
        return self._run(
            Call(
                input_ids_BT=fresh.tokens_BT.gather(1, column_BT.clamp(max=fresh.most - 1)),
                position_ids_BT=index_BT.clamp(max=self._engine.spec.max_positions - 1),
                attention_mask_B1TL=block_mask(start_B, triangle(width, device), aligned(rows.longest - 1 + width)),
                write_index_B=start_B,
                logit_index_BM=(fresh.count_B - 1 - begin_B).clamp(max=width - 1)[:, None],
                head=dataclasses.replace(inputs, own_BT=alone_BT),
            )
        )

    def _run(self, call: Call) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BMV, states_BTH = self._engine.run(call)
        assert states_BTH is not None
        return logits_BMV, states_BTH

    def _inputs(self, features_BTF: torch.Tensor) -> HeadInputs:
        """Return the inputs of pairs whose states are made of the target's features."""
        sizes = features_BTF.shape[:2]
        hidden_BTH = features_BTF.new_zeros((*sizes, self._sizes.hidden))
        return HeadInputs(features_BTF, hidden_BTH, hidden_BTH.new_zeros(sizes, dtype=torch.bool))

    def _own(self, hidden_BTH: torch.Tensor) -> HeadInputs:
        """Return the inputs of pairs whose states are the head's own."""
        sizes = hidden_BTH.shape[:2]
        features_BTF = hidden_BTH.new_zeros((*sizes, self._sizes.features))
        return HeadInputs(features_BTF, hidden_BTH, hidden_BTH.new_ones(sizes, dtype=torch.bool))

    def _places_of(self, index_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where the features of tokens are kept, by their index in the text of each row."""
        return torch.arange(len(index_BT), device=index_BT.device)[:, None], index_BT % self._places

    def _wide(self, index_BT: torch.Tensor) -> torch.Tensor:
        return index_BT[..., None].expand(-1, -1, self._sizes.features)


def places_for(depth: int) -> int:
    """Return of how many tokens of a row features are kept, if rounds write up to so many tokens and one."""
    return max(PLACES, 4 * (depth + 1))


class BesideHead:
    """Drafts that are given, or none, in rounds of a bundle whose draft is a head that is to draft in other rounds.

    Args:
        head: The head, which keeps the features of what these rounds write.
    """

    def __init__(self, head: DraftHead) -> None:
        self._given, self._head = GivenDrafts(), head
        self._fed = False

    def draft(self, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
        """See ``Source``."""
        self._fed = self._head.beside(rows)
        return self._given.draft(rule, tree, rows, noise)

    def keep(self, rows: Rows, accepted_BD: torch.Tensor, size: int, states_BNF: torch.Tensor | None) -> None:
        """See ``Source``."""
        self._head.keep(rows, accepted_BD, size, states_BNF)

    def lacking(self, accepted: int) -> int | None:
        """See ``Source``."""
        return self._head.lacking(accepted) if self._fed else None


def _fresh(rows: Rows) -> Fresh:
    assert rows.fresh is not None
    return rows.fresh


def _before(rows: Rows) -> Rows:
    """Return the batch in the head's slots, where the pair of a root is one slot before the root; the first is 0."""
    return dataclasses.replace(rows, length_B=(rows.length_B - 1).clamp(min=1))
