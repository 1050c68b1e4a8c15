"""One round of speculative decoding: draft, verify, select, commit.

The algorithm is SpecTr's (arXiv 2310.15141, algorithms 1 to 3), over a tree of drafts:

1. Draft. A source, such as the draft model, proposes a tree of tokens after each row's root. The law that every token
   was drawn from is kept, because the rule needs it.
2. Verify. One pass of the target model returns its law after the root and after every node of the tree.
3. Select. The rule accepts a path of the tree and draws one more token. With a single draft: a token of probability d
   under the draft and t under the target is accepted with probability min(1, t / d); where it is rejected, a
   correction is drawn from what that leaves of the target's law, in proportion to max(t - d, 0); after an accepted
   leaf, a bonus token is drawn from the target's law. Several drafts are coupled with the target's law in the same
   spirit. The tokens follow the target's law exactly, whatever the draft proposed.
4. Commit. The accepted tokens' keys and values move to where the text continues, and the tokens are handed out.

A round therefore writes at least one token per row, and one more for every draft that is accepted.
"""

# B rows, F width of features, N tree nodes with the root, P nodes with children, D depth of the tree, V vocabulary.
from __future__ import annotations

import dataclasses

import torch

from spectr_runtime.contract import Call, Engine, Output
from spectr_runtime.drafting.batch import Given, Rows, tree_call
from spectr_runtime.drafting.source import Drafts, Source
from spectr_runtime.laws.logprobs import Logprobs
from spectr_runtime.speculation.plan import PLAIN, Plan
from spectr_runtime.speculation.timing import Timing
from spectr_select import DraftTree, Noise, Selection, select


@dataclasses.dataclass(frozen=True, slots=True)
class Emitted:
    """What a round added to the rows' texts.

    Attributes:
        tokens_BD1: The accepted drafts, then the correction or bonus token; the columns after it are -1.
        accepted_B: Number of accepted drafts of each row.
        sound_B: False where a model's logits were not finite; the tokens of such a row mean nothing.
        nodes_BN: The tokens of the tree, as they were drafted; the root's first.
        logprobs: The log-probabilities of the tokens, for the rows that want them; None if no row does.
    """

    tokens_BD1: torch.Tensor
    accepted_B: torch.Tensor
    sound_B: torch.Tensor
    nodes_BN: torch.Tensor
    logprobs: Logprobs | None


def speculate(
    plan: Plan, source: Source, target: Engine, rows: Rows, timing: Timing, tokens: int | None = None
) -> Emitted:
    """Run one round over rows ``0 .. B - 1`` of the caches.

    Args:
        plan: Rule and tree. A plan without drafts feeds the root alone and samples from the target.
        source: What drafts.
        target: The target engine.
        rows: State of the batch.
        timing: Takes the seconds of the four phases.
        tokens: How many tokens the target is fed for each row; None for those of the tree.
    """
    tree, noise = plan.tree, Noise(rows.seed_B, rows.length_B, certain=rows.sampling.all_greedy)
    with timing.measure("draft"):
        drafts = source.draft(plan.rule, tree, rows, noise)
    with timing.measure("verify"):
        call = score_call(tree, target, rows, drafts.tokens_BN, tokens or tree.size)
        logits_BNV, states_BNF = scored_nodes(tree, target.run(call))
        target_BNV, verified_B = rows.laws(logits_BNV, drafts.tokens_BN, tree.ancestors(logits_BNV.device))
    with timing.measure("select"):
        chosen = choose(plan, drafts, target_BNV, rows.given, noise)
    with timing.measure("commit"):
        if not tree.is_chain:  # the nodes of a chain are in the slots of accepted tokens already
            target.cache.keep(rows.root_B, chosen.accepted_BD, rows.longest - 1 + tree.size)
        source.keep(rows, chosen.accepted_BD, tree.size, states_BNF)
        tokens_BD1 = emitted_tokens(drafts.tokens_BN, chosen)
        logprobs = rows.logprobs.gather(logits_BNV, chosen.accepted_BD, tokens_BD1) if rows.logprobs else None
    return Emitted(tokens_BD1, chosen.count_B, drafts.sound_B & verified_B, drafts.tokens_BN, logprobs)


def score_call(tree: DraftTree, target: Engine, rows: Rows, tokens_BN: torch.Tensor, tokens: int) -> Call:
    """Return the call that scores the root and every node of the tree in one pass of the target.

    If it is to feed more tokens than the tree has, leaves that nobody reads follow.
    """
    more = tokens - tree.size
    wider = DraftTree((*tree.parents, *[max(tree.parents[-1], 0)] * more)) if more else tree
    tokens_BT = torch.nn.functional.pad(tokens_BN, (0, more)) if more else tokens_BN
    return tree_call(target, rows, tokens_BT, wider.depths, 0, wider.ancestors(tokens_BN.device))


def scored_nodes(tree: DraftTree, output: Output) -> Output:
    """Return what the target gave out for the nodes of the tree, and not for those that filled its call."""
    logits_BTV, states_BTF = output
    return Output(logits_BTV[:, : tree.size], None if states_BTF is None else states_BTF[:, : tree.size])


def choose(plan: Plan, drafts: Drafts, target_BNV: torch.Tensor, given: Given | None, noise: Noise) -> Selection:
    """Select from the scored tree; a row accepts no more than it may.

    A race writes the same text whatever it accepts, so what a row accepts can be cut anywhere. Other rules accept what
    they accept, or nothing: a row that drafts nothing is decoded plainly.
    """
    tree = plan.tree
    rule = "race" if plan.rule == PLAIN else plan.rule
    chosen = select(rule, tree, drafts.tokens_BN, target_BNV, drafts.law_BPV, noise)
    if given is None or not plan.drafts:
        return chosen
    if plan.races:
        return at_most(given.limit_B, chosen, drafts.tokens_BN)
    if not given.plain:
        return chosen
    alone = select("race", DraftTree.chain(0), drafts.tokens_BN[:, :1], target_BNV[:, :1], None, noise)
    return nothing_in(given.limit_B == 0, chosen, alone.token_B)


def at_most(limit_B: torch.Tensor, chosen: Selection, tokens_BN: torch.Tensor) -> Selection:
    """Return a race's selection with at most so many accepted drafts: the next one becomes the token after them."""
    count_B = torch.minimum(chosen.count_B, limit_B)
    token_B = emitted_tokens(tokens_BN, chosen).gather(1, count_B[:, None])[:, 0]
    depth_D = torch.arange(chosen.accepted_BD.shape[1], device=limit_B.device)
    return Selection(chosen.accepted_BD.masked_fill(depth_D >= count_B[:, None], -1), count_B, token_B)


def nothing_in(rows_B: torch.Tensor, chosen: Selection, token_B: torch.Tensor) -> Selection:
    """Return a selection that accepts nothing in some rows, and there adds other tokens."""
    return Selection(
        chosen.accepted_BD.masked_fill(rows_B[:, None], -1),
        chosen.count_B.masked_fill(rows_B, 0),
        torch.where(rows_B, token_B, chosen.token_B),
    )


def emitted_tokens(tokens_BN: torch.Tensor, chosen: Selection) -> torch.Tensor:
    """Return the accepted drafts of every row and, right after them, the correction or bonus token; [B, D + 1]."""
    drafts_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0)).masked_fill(chosen.accepted_BD < 0, -1)
    tokens_BD1 = torch.cat([drafts_BD, torch.full_like(chosen.token_B[:, None], -1)], 1)
    return tokens_BD1.scatter_(1, chosen.count_B[:, None], chosen.token_B[:, None])
