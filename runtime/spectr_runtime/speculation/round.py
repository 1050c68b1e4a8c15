"""One round of speculative decoding: draft, verify, select, commit.

The algorithm is SpecTr's (arXiv 2310.15141, algorithms 1 to 3), over a tree of drafts:

1. Draft. The draft model proposes a tree of tokens after each row's root. The law that every token was drawn from is
   kept, because the rule needs it.
2. Verify. One pass of the target model returns its law after the root and after every node of the tree.
3. Select. The rule accepts a path of the tree and draws one more token. With a single draft: a token of probability d
   under the draft and t under the target is accepted with probability min(1, t / d); where it is rejected, a
   correction is drawn from what that leaves of the target's law, in proportion to max(t - d, 0); after an accepted
   leaf, a bonus token is drawn from the target's law. Several drafts are coupled with the target's law in the same
   spirit. The tokens follow the target's law exactly, whatever the draft proposed.
4. Commit. The accepted tokens' keys and values move to where the text continues, and the tokens are handed out.

A round therefore writes at least one token per row, and one more for every draft that is accepted.
"""

# B rows, N tree nodes with the root, T consecutive nodes of those, W nodes of a level, P nodes with children, M nodes
# whose laws are wanted, D depth of the tree, V vocabulary.
from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.rows.row import Scored
from spectr_runtime.speculation.plan import PLAIN, Plan
from spectr_runtime.speculation.timing import Timing
from spectr_select import DraftTree, Noise, Selection, draw, select


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
    """

    length_B: torch.Tensor
    last_B2: torch.Tensor
    seed_B: torch.Tensor
    sampling: Sampling
    adjustment: Adjustment | None
    logprobs: WantedLogprobs | None
    longest: int

    @property
    def root_B(self) -> torch.Tensor:
        """The index of each row's root in its text, which is its slot in the cache and its position alike."""
        return self.length_B - 1

    def laws(
        self, logits_BMV: torch.Tensor, tokens_BN: torch.Tensor, sees_MN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the laws of the tokens after M nodes, for draft and target alike.

        Args and results are those of ``Adjustment.apply`` and ``Sampling.laws``.
        """
        if self.adjustment is not None:
            logits_BMV = self.adjustment.apply(logits_BMV, tokens_BN, sees_MN)
        return self.sampling.laws(logits_BMV)


@dataclasses.dataclass(frozen=True, slots=True)
class Emitted:
    """What a round added to the rows' texts.

    Attributes:
        tokens_BD1: The accepted drafts, then the correction or bonus token; the columns after it are -1.
        accepted_B: Number of accepted drafts of each row.
        sound_B: False where a model's logits were not finite; the tokens of such a row mean nothing.
        logprobs: For the rows that want log-probabilities, per token: the token's own, then the most probable ones.
    """

    tokens_BD1: torch.Tensor
    accepted_B: torch.Tensor
    sound_B: torch.Tensor
    logprobs: Mapping[int, list[list[Scored]]]


def speculate(plan: Plan, draft: Engine | None, target: Engine, rows: Rows, timing: Timing) -> Emitted:
    """Run one round over rows ``0 .. B - 1`` of both caches.

    Args:
        plan: Rule and tree. A plan without drafts feeds the root alone and samples from the target.
        draft: The draft engine; not used by a plan without drafts.
        target: The target engine.
        rows: State of the batch.
        timing: Takes the seconds of the four phases.
    """
    tree, noise = plan.tree, Noise(rows.seed_B, rows.length_B)
    draft = draft if plan.drafts else None
    with timing.measure("draft"):
        tokens_BN, draft_BPV, drafted_B = grow(plan.rule, tree, draft, rows, noise)
    with timing.measure("verify"):
        logits_BNV, target_BNV, verified_B = verify(tree, target, rows, tokens_BN)
    with timing.measure("select"):
        chosen = select("race" if plan.rule == PLAIN else plan.rule, tree, tokens_BN, target_BNV, draft_BPV, noise)
    with timing.measure("commit"):
        if not tree.is_chain:  # the nodes of a chain are in the slots of accepted tokens already
            for engine in filter(None, (draft, target)):
                engine.cache.keep(rows.root_B, chosen.accepted_BD, rows.longest - 1 + tree.size)
        tokens_BD1 = emitted_tokens(tokens_BN, chosen)
        logprobs = rows.logprobs.gather(logits_BNV, chosen.accepted_BD, tokens_BD1) if rows.logprobs else {}
    return Emitted(tokens_BD1, chosen.count_B, drafted_B & verified_B, logprobs)


def grow(
    rule: str, tree: DraftTree, draft: Engine | None, rows: Rows, noise: Noise
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw the tree level by level, and keep the laws that its tokens were drawn from.

    Returns:
        Tokens [B, N] with the root, laws [B, P, V] of the nodes with children, and which rows' logits were finite [B].
    """
    tokens_BN = rows.last_B2[:, 1:].repeat(1, tree.size)
    sound_B = torch.ones_like(rows.length_B, dtype=torch.bool)
    if draft is None:
        return tokens_BN, torch.empty((len(tokens_BN), 0, 0), device=tokens_BN.device), sound_B
    sees_NN = tree.ancestors(tokens_BN.device)
    law_BWV, sound_B = rows.laws(draft.forward(_root_call(draft, rows)), tokens_BN[:, :1], sees_NN[:1, :1])
    laws = [law_BWV]
    for depth, level in enumerate(tree.levels[1:], start=1):
        nodes = slice(level.start, level.stop)
        tokens_BN[:, nodes] = draw(rule, tree, depth, law_BWV, noise)
        if depth == tree.depth:  # nothing is drawn after the leaves, so their laws are not needed
            break
        sees_WN = sees_NN[nodes, : level.stop]
        call = tree_call(draft, rows, tokens_BN[:, nodes], tree.depths[nodes], level.start, sees_WN)
        law_BWV, sound_level_B = rows.laws(draft.forward(call), tokens_BN[:, : level.stop], sees_WN)
        laws.append(law_BWV)
        sound_B &= sound_level_B
    return tokens_BN, torch.cat(laws, 1)[:, : tree.inner], sound_B


def verify(
    tree: DraftTree, target: Engine, rows: Rows, tokens_BN: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Score the root and every node of the tree in one pass of the target.

    Returns:
        Logits and laws [B, N, V], and which rows' logits were finite [B].
    """
    sees_NN = tree.ancestors(tokens_BN.device)
    logits_BNV = target.forward(tree_call(target, rows, tokens_BN, tree.depths, 0, sees_NN))
    return logits_BNV, *rows.laws(logits_BNV, tokens_BN, sees_NN)


def emitted_tokens(tokens_BN: torch.Tensor, chosen: Selection) -> torch.Tensor:
    """Return the accepted drafts of every row and, right after them, the correction or bonus token; [B, D + 1]."""
    drafts_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0)).masked_fill(chosen.accepted_BD < 0, -1)
    tokens_BD1 = torch.cat([drafts_BD, torch.full_like(chosen.token_B[:, None], -1)], 1)
    return tokens_BD1.scatter_(1, chosen.count_B[:, None], chosen.token_B[:, None])


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
    position_BT = rows.root_B[:, None] + torch.tensor(depths, device=device)
    return Call(
        input_ids_BT=tokens_BT,
        # A tree may reach beyond the last position that the model knows, but its row ends before.
        position_ids_BT=position_BT.clamp(max=engine.spec.max_positions - 1),
        attention_mask_B1TL=block_mask(rows.root_B, sees_TN, aligned(rows.longest - 1 + sees_TN.shape[1])),
        write_index_B=rows.root_B + first,
        logit_index_BM=torch.arange(tokens_BT.shape[1], device=device).expand(len(tokens_BT), -1),
    )


def _root_call(draft: Engine, rows: Rows) -> Call:
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
