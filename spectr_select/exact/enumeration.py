"""Exact output laws of rules: the code that decodes, run under every outcome of every draw and coin."""

# B rows, I pairs of models, N tree nodes, R branches, S texts of one length or of branches, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch

from spectr_select.exact.branches import Branches, every_branch
from spectr_select.law import check_pair, normalised
from spectr_select.round import draw_level
from spectr_select.rule import Round, Rule
from spectr_select.rules import rule_named
from spectr_select.selection import Selection
from spectr_select.tree import DraftTree

TextLaw = Callable[[tuple[int, ...]], torch.Tensor]


def output_law(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Exact law of the token that a rule emits after the root. Grows with V^k: meant for small vocabularies.

    Args:
        rule: A name of ``RULES``.
        target_BV: The target's laws; weights of any float dtype.
        draft_BV: The draft's laws.
        k: Number of drafts.

    Returns:
        Laws, float64 [B, V]; those of the target, if the rule is lossless.

    Raises:
        ValueError: The rule is unknown, takes no k drafts, or is a race, whose outcomes cannot be enumerated.
    """
    check_pair(target_BV, draft_BV)
    tree, target_BV = DraftTree.paths(k, 1), normalised(target_BV)
    # After the first token any law will do, as its own answer is summed over.
    after_BSV = target_BV[:, None].expand(-1, target_BV.shape[1], -1)
    return sequence_laws(rule, tree, [target_BV[:, None], after_BSV], [normalised(draft_BV)[:, None]]).sum(2)


def sequence_law(rule: str, tree: DraftTree, target: TextLaw, draft: TextLaw) -> torch.Tensor:
    """Exact law of the emitted tokens, completed by the target to one more than the tree's depth.

    Args:
        rule: A name of ``RULES``.
        tree: The draft's topology.
        target: The target's law after a text, ``tokens -> law_V``.
        draft: The draft's.

    Returns:
        Law of the text, float64 with one dimension of V for each of its ``tree.depth + 1`` tokens; equal to
        ``text_law(target, tree.depth + 1)``, if the rule is lossless.

    Raises:
        ValueError: The rule is unknown, does not take the tree, or is a race, whose outcomes cannot be enumerated.
    """
    return sequence_laws(rule, tree, _tables(target, tree.depth + 1), _tables(draft, tree.depth))[0]


def sequence_laws(rule: str, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]) -> torch.Tensor:
    """``sequence_law`` for many pairs of models at once.

    Args:
        rule: A name of ``RULES``.
        tree: The draft's topology.
        targets: For every depth up to ``tree.depth`` the targets' laws after all texts of that many tokens, normalised
            float64 [I, S, V]; a text stands at its number in base V.
        drafts: The drafts' for every depth up to ``tree.depth - 1``.

    Returns:
        Laws of the texts, float64 with a dimension I and one of V for each of ``tree.depth + 1`` tokens.

    Raises:
        ValueError: As ``sequence_law``.
    """
    found = rule_named(rule)
    found.check_tree(tree)
    vocabulary = targets[0].shape[2]
    tokens_RN, weight_R, pair_R = _drawn(found, tree, drafts, len(targets[0]))
    code_RN = _codes(tree, tokens_RN, vocabulary)
    laws_RNV = _laws(targets, tree, pair_R, code_RN, tree.size)
    drafts_RPV = _laws(drafts, tree, pair_R, code_RN, tree.inner)

    def select(chance: Branches) -> Selection:
        row_R = chance.row_R
        return found.select(Round(tree, tokens_RN[row_R], laws_RNV[row_R], drafts_RPV[row_R]), chance)

    chosen, branches = every_branch(len(weight_R), select)
    node_R = torch.cat([torch.zeros_like(chosen.count_B[:, None]), chosen.accepted_BD], 1).amax(1)
    row_R = branches.row_R
    code_R = code_RN[row_R, node_R] * vocabulary + chosen.token_B
    return _completed(targets, pair_R[row_R], code_R, chosen.count_B + 1, weight_R[row_R] * branches.weight_R)


def text_law(law: TextLaw, length: int) -> torch.Tensor:
    """Law of the first ``length`` tokens of a model; float64 with one dimension of V for each."""
    return text_laws(_tables(law, length))[0]


def text_laws(tables: list[torch.Tensor]) -> torch.Tensor:
    """``text_law`` of many models at once, from laws [I, S, V] for every depth; one token for each of the tables."""
    pairs = len(tables[0])
    nothing = torch.zeros(pairs, dtype=torch.int64)
    return _completed(tables, torch.arange(pairs), nothing, nothing, torch.ones(pairs, dtype=torch.float64))


def _tables(law: TextLaw, length: int) -> list[torch.Tensor]:
    """Laws after all texts of 0 to ``length - 1`` tokens, each text standing at its number in base V; [1, S, V]."""
    vocabulary = len(law(()))
    texts = (product(range(vocabulary), repeat=depth) for depth in range(max(length, 1)))
    return [normalised(torch.stack([torch.as_tensor(law(text)) for text in some]))[None] for some in texts]


def _drawn(
    rule: Rule, tree: DraftTree, drafts: list[torch.Tensor], pairs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """All trees that can be drawn, their probabilities, and the pair of models that each belongs to."""
    tokens_RN, weight_R = torch.zeros((pairs, 1), dtype=torch.int64), torch.ones(pairs, dtype=torch.float64)
    pair_R = torch.arange(pairs)
    for depth in range(1, tree.depth + 1):
        above = tree.levels[depth - 1]
        code_RM = _codes(tree, tokens_RN, drafts[0].shape[2])[:, above.start :]
        laws_RMV = drafts[depth - 1][pair_R[:, None], code_RM]
        tokens_RW, branches = every_branch(len(weight_R), partial(_draw, rule, tree, depth, laws_RMV))
        tokens_RN = torch.cat([tokens_RN[branches.row_R], tokens_RW], 1)
        weight_R, pair_R = weight_R[branches.row_R] * branches.weight_R, pair_R[branches.row_R]
    return tokens_RN, weight_R, pair_R


def _draw(rule: Rule, tree: DraftTree, depth: int, laws_RMV: torch.Tensor, chance: Branches) -> torch.Tensor:
    return draw_level(rule, tree, depth, laws_RMV[chance.row_R], chance)


def _codes(tree: DraftTree, tokens_RN: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Number of the text that each drawn node ends; 0 for the root's, which is empty."""
    codes = [torch.zeros_like(tokens_RN[:, 0])]
    for node in range(1, tokens_RN.shape[1]):
        codes.append(codes[tree.parents[node]] * vocabulary + tokens_RN[:, node])
    return torch.stack(codes, 1)


def _laws(
    tables: list[torch.Tensor], tree: DraftTree, pair_R: torch.Tensor, code_RN: torch.Tensor, nodes: int
) -> torch.Tensor:
    if not nodes:
        return torch.empty((len(pair_R), 0, 0), dtype=torch.float64)
    laws = [tables[depth][pair_R, code_RN[:, node]] for node, depth in enumerate(tree.depths[:nodes])]
    return torch.stack(laws, 1)


def _completed(
    targets: list[torch.Tensor],
    pair_S: torch.Tensor,
    code_S: torch.Tensor,
    length_S: torch.Tensor,
    weight_S: torch.Tensor,
) -> torch.Tensor:
    """Laws of texts of ``len(targets)`` tokens: the first ``length_S`` are given, the target adds the rest."""
    pairs, _, vocabulary = targets[0].shape
    mass_IS = torch.zeros((pairs, 1), dtype=torch.float64)
    for length in range(len(targets) + 1):
        here_S = length_S == length
        place_S = pair_S * mass_IS.shape[1] + torch.where(here_S, code_S, 0)
        mass_IS = mass_IS.flatten().index_add(0, place_S, torch.where(here_S, weight_S, 0)).view_as(mass_IS)
        if length < len(targets):
            mass_IS = (mass_IS[:, :, None] * targets[length]).flatten(1)
    return mass_IS.reshape(pairs, *(vocabulary,) * len(targets))
