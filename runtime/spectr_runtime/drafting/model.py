"""Drafts of a draft model."""

# B rows, D depth of the tree, F width of features, N tree nodes with the root, P nodes with children, V vocabulary,
# W nodes of a level.
from __future__ import annotations

from collections.abc import Callable

import torch

from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.drafting.batch import Rows, tree_call
from spectr_runtime.drafting.source import Drafts
from spectr_select import DraftTree, Noise, draw

Score = Callable[[range, torch.Tensor, torch.Tensor], torch.Tensor]


class DraftModel:
    """Draws the tree level by level from the laws of a model, and keeps the laws that its tokens were drawn from.

    Args:
        engine: The model, whose cache holds the rows' texts but for their last two tokens.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def draft(self, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
        """See ``Source``."""
        draft = self._engine

        def score(level: range, tokens_BW: torch.Tensor, sees_WN: torch.Tensor) -> torch.Tensor:
            depths = tree.depths[level.start : level.stop]
            return draft.forward(tree_call(draft, rows, tokens_BW, depths, level.start, sees_WN))

        return grow(rule, tree, rows, noise, draft.forward(root_call(draft, rows)), score)

    def keep(self, rows: Rows, accepted_BD: torch.Tensor, size: int, states_BNF: torch.Tensor | None) -> None:
        """Move the slots of accepted nodes to where text belongs; see ``Source``."""
        if accepted_BD.shape[1] < size - 1:  # the nodes of a chain are there already
            self._engine.cache.keep(rows.root_B, accepted_BD, rows.longest - 1 + size)

    def lacking(self, accepted: int) -> int | None:
        """See ``Source``: the root and, where a whole path was accepted, the leaf before it."""
        return 2


def grow(rule: str, tree: DraftTree, rows: Rows, noise: Noise, logits_BMV: torch.Tensor, score: Score) -> Drafts:
    """Draw a tree level by level, and keep the laws that its tokens were drawn from.

    Args:
        rule: Name of the rule, which says how siblings are drawn.
        tree: The tree.
        rows: State of the batch.
        noise: The round's noise.
        logits_BMV: The draft's logits after each row's root.
        score: Returns the logits after the nodes of a level, given it, their tokens, and which nodes each of them sees.
    """
    tokens_BN = rows.last_B2[:, 1:].repeat(1, tree.size)
    sees_NN = tree.ancestors(tokens_BN.device)
    law_BWV, sound_B = rows.laws(logits_BMV, tokens_BN[:, :1], sees_NN[:1, :1])
    laws = [law_BWV]
    for depth, level in enumerate(tree.levels[1:], start=1):
        nodes = slice(level.start, level.stop)
        tokens_BN[:, nodes] = rows.or_given(draw(rule, tree, depth, law_BWV, noise), nodes)
        if depth == tree.depth:  # nothing is drawn after the leaves, so their laws are not needed
            break
        sees_WN = sees_NN[nodes, : level.stop]
        logits_BMV = score(level, tokens_BN[:, nodes], sees_WN)
        law_BWV, sound_level_B = rows.laws(logits_BMV, tokens_BN[:, : level.stop], sees_WN)
        laws.append(law_BWV)
        sound_B &= sound_level_B
    return Drafts(tokens_BN, torch.cat(laws, 1)[:, : tree.inner], sound_B)


def root_call(draft: Engine, rows: Rows) -> Call:
    """Return the call that feeds the last two tokens of every row to the draft and asks for the root's logits.

    The draft is never fed the leaves of a tree. So after a round that accepted a whole path, its cache lacks the token
    before the root. Feeding two tokens always closes that gap with one shape for all rows, though most rows have the
    first of the two already. In a row whose text is one token, the second column is padding.
    """
    device = rows.length_B.device
    start_B = (rows.length_B - 2).clamp(min=0)
    position_B2 = start_B[:, None] + torch.arange(2, device=device)
    return Call(
        input_ids_BT=rows.last_B2,
        position_ids_BT=position_B2.clamp(max=draft.spec.max_positions - 1),
        attention_mask_B1TL=block_mask(start_B, triangle(2, device), aligned(rows.longest + 1)),
        write_index_B=start_B,
        logit_index_BM=(rows.root_B - start_B)[:, None],
    )
