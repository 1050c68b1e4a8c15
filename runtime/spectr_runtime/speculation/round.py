"""One round of speculative decoding: draft, verify, select, commit (SpecTr, arXiv 2310.15141, algorithms 1 to 3)."""

# B rows, N tree nodes with the root, W nodes of a level, P nodes with children, D depth of the tree, V vocabulary.
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
from spectr_select import DraftTree, Noise, draw, select


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """The state of the batch at the start of a round.

    A text of n tokens has the keys and values of its first n - 1 in the target's cache: the last one is the root.

    Attributes:
        length_B: Tokens n of each row, at least 1; int64.
        last_B2: The last two tokens, the root second; a text of one token repeats it.
        seed_B: Seeds of the rows' noise; int64.
        sampling: Sampling parameters.
        adjustment: What the rows' texts do to the logits, if anything.
        logprobs: Which rows want log-probabilities, if any.
        longest: The largest length, known to the host.
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
        """Slot and position of each row's root."""
        return self.length_B - 1

    def laws(
        self, logits_BMV: torch.Tensor, tokens_BN: torch.Tensor, sees_MN: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The laws of the tokens behind M nodes; see ``Adjustment.apply`` and ``Sampling.laws``."""
        if self.adjustment is not None:
            logits_BMV = self.adjustment.apply(logits_BMV, tokens_BN, sees_MN)
        return self.sampling.laws(logits_BMV)


@dataclasses.dataclass(frozen=True, slots=True)
class Emitted:
    """What a round added.

    Attributes:
        tokens_BD1: Accepted drafts, then the correction or bonus token; columns behind it are -1.
        accepted_B: Accepted drafts of each row.
        sound_B: False where a model's logits were not finite; such a row's tokens mean nothing.
        logprobs: Of the rows that want them, per token: itself, then the most probable ones.
    """

    tokens_BD1: torch.Tensor
    accepted_B: torch.Tensor
    sound_B: torch.Tensor
    logprobs: Mapping[int, list[list[Scored]]]


def speculate(plan: Plan, draft: Engine | None, target: Engine, rows: Rows, timing: Timing) -> Emitted:
    """Run one round over rows ``0 .. B - 1`` of both caches.

    Args:
        plan: Rule and tree. A plan without drafts feeds the root alone and samples from the target.
        draft: The draft engine; a plan without drafts has no use for it.
        target: The target engine.
        rows: State of the batch.
        timing: Where the seconds of the three phases are added.
    """
    tree, noise = plan.tree, Noise(rows.seed_B, rows.length_B)
    draft = draft if plan.drafts else None
    with timing.measure("draft"):
        tokens_BN, draft_BPV, drafted_B = grow(plan.rule, tree, draft, rows, noise)
    with timing.measure("verify"):
        logits_BNV, target_BNV, verified_B = verify(tree, target, rows, tokens_BN)
    with timing.measure("select"):
        rule = "single" if plan.rule == PLAIN else plan.rule
        chosen = select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise)
    with timing.measure("commit"):
        if not tree.is_chain:  # the nodes of a chain already stand where accepted tokens belong
            for engine in filter(None, (draft, target)):
                engine.cache.keep(rows.root_B, chosen.accepted_BD)
        drafts_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0)).masked_fill(chosen.accepted_BD < 0, -1)
        tokens_BD1 = torch.cat([drafts_BD, torch.full_like(chosen.token_B[:, None], -1)], 1)
        tokens_BD1.scatter_(1, chosen.count_B[:, None], chosen.token_B[:, None])
        logprobs = rows.logprobs.gather(logits_BNV, chosen.accepted_BD, tokens_BD1) if rows.logprobs else {}
    return Emitted(tokens_BD1, chosen.count_B, drafted_B & verified_B, logprobs)


def grow(
    rule: str, tree: DraftTree, draft: Engine | None, rows: Rows, noise: Noise
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw the tree level by level, keeping the laws that the tokens were drawn from.

    The leaves are never fed, so after a round that accepted a whole path the draft's cache lacks the token before the
    root. Feeding the last two tokens of every row, one of them mostly again, closes that gap with one shape for all.

    Returns:
        Tokens [B, N] with the root, laws [B, P, V], and which rows' logits were finite [B].
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
        if depth == tree.depth:
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
    """Score the root and every node in one pass.

    Returns:
        Logits and laws [B, N, V], and which rows' logits were finite [B].
    """
    sees_NN = tree.ancestors(tokens_BN.device)
    logits_BNV = target.forward(tree_call(target, rows, tokens_BN, tree.depths, 0, sees_NN))
    return logits_BNV, *rows.laws(logits_BNV, tokens_BN, sees_NN)


def _root_call(draft: Engine, rows: Rows) -> Call:
    """The last two tokens of every row; the second column of a text of one token is padding."""
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


def tree_call(
    engine: Engine, rows: Rows, tokens_BT: torch.Tensor, depths: tuple[int, ...], first: int, sees_TN: torch.Tensor
) -> Call:
    """Feed consecutive nodes of the tree, ``first`` being the number of the first; node n stands at slot root + n."""
    device = tokens_BT.device
    position_BT = rows.root_B[:, None] + torch.tensor(depths, device=device)
    return Call(
        input_ids_BT=tokens_BT,
        position_ids_BT=position_BT.clamp(max=engine.spec.max_positions - 1),
        attention_mask_B1TL=block_mask(rows.root_B, sees_TN, aligned(rows.longest - 1 + sees_TN.shape[1])),
        write_index_B=rows.root_B + first,
        logit_index_BM=torch.arange(tokens_BT.shape[1], device=device).expand(len(tokens_BT), -1),
    )
