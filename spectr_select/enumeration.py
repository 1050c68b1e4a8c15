"""Exact output laws of rules: the code that decodes, run under every outcome of every draw and coin."""

# B rows, N tree nodes, R branches, V vocabulary, S texts of one length.
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import torch

from spectr_select.branches import Branches, every_branch
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
    laws = [
        sequence_law(rule, DraftTree.paths(k, 1), _constant(target_V), _constant(draft_V)).sum(1)
        for target_V, draft_V in zip(target_BV, draft_BV, strict=True)
    ]
    return torch.stack(laws)


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
    found = rule_named(rule)
    found.check_tree(tree)
    targets, drafts = _tables(target, tree.depth + 1), _tables(draft, tree.depth)
    tokens_RN, weight_R = _drawn(found, tree, drafts)
    code_RN = _codes(tree, tokens_RN, len(targets[0][0]))
    laws_RNV, drafts_RPV = _laws(targets, tree, code_RN, tree.size), _laws(drafts, tree, code_RN, tree.inner)

    def select(chance: Branches) -> Selection:
        row_R = chance.row_R
        return found.select(Round(tree, tokens_RN[row_R], laws_RNV[row_R], drafts_RPV[row_R]), chance)

    chosen, branches = every_branch(len(weight_R), select)
    node_R = torch.cat([torch.zeros_like(chosen.count_B[:, None]), chosen.accepted_BD], 1).amax(1)
    code_R = code_RN[branches.row_R, node_R] * len(targets[0][0]) + chosen.token_B
    return _completed(targets, code_R, chosen.count_B + 1, weight_R[branches.row_R] * branches.weight_R)


def text_law(law: TextLaw, length: int) -> torch.Tensor:
    """Law of the first ``length`` tokens of a model; float64 with one dimension of V for each."""
    nothing = torch.zeros(1, dtype=torch.int64)
    return _completed(_tables(law, length), nothing, nothing, torch.ones(1, dtype=torch.float64))


def _constant(law_V: torch.Tensor) -> TextLaw:
    return lambda text: law_V


def _tables(law: TextLaw, length: int) -> list[torch.Tensor]:
    """Laws after all texts of 0 to ``length - 1`` tokens, each text standing at its number in base V."""
    vocabulary = len(law(()))
    texts = (product(range(vocabulary), repeat=depth) for depth in range(max(length, 1)))
    return [normalised(torch.stack([torch.as_tensor(law(text)) for text in some])) for some in texts]


def _drawn(rule: Rule, tree: DraftTree, drafts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    tokens_RN, weight_R = torch.zeros((1, 1), dtype=torch.int64), torch.ones(1, dtype=torch.float64)
    for depth in range(1, tree.depth + 1):
        above = tree.levels[depth - 1]
        code_RM = _codes(tree, tokens_RN, len(drafts[0][0]))[:, above.start :]
        laws_RMV = drafts[depth - 1][code_RM]
        tokens_RW, branches = every_branch(len(weight_R), partial(_draw, rule, tree, depth, laws_RMV))
        tokens_RN = torch.cat([tokens_RN[branches.row_R], tokens_RW], 1)
        weight_R = weight_R[branches.row_R] * branches.weight_R
    return tokens_RN, weight_R


def _draw(rule: Rule, tree: DraftTree, depth: int, laws_RMV: torch.Tensor, chance: Branches) -> torch.Tensor:
    return draw_level(rule, tree, depth, laws_RMV[chance.row_R], chance)


def _codes(tree: DraftTree, tokens_RN: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Number of the text that each drawn node ends; 0 for the root's, which is empty."""
    codes = [torch.zeros_like(tokens_RN[:, 0])]
    for node in range(1, tokens_RN.shape[1]):
        codes.append(codes[tree.parents[node]] * vocabulary + tokens_RN[:, node])
    return torch.stack(codes, 1)


def _laws(tables: list[torch.Tensor], tree: DraftTree, code_RN: torch.Tensor, nodes: int) -> torch.Tensor:
    shape = (len(code_RN), 0, tables[0].shape[1])
    laws = [tables[depth][code_RN[:, node]] for node, depth in enumerate(tree.depths[:nodes])]
    return torch.stack(laws, 1) if laws else torch.empty(shape, dtype=torch.float64)


def _completed(
    targets: list[torch.Tensor], code_S: torch.Tensor, length_S: torch.Tensor, weight_S: torch.Tensor
) -> torch.Tensor:
    """Law of texts of ``len(targets)`` tokens: the first ``length_S`` are given, the target adds the rest."""
    vocabulary = targets[0].shape[1]
    mass_S = torch.zeros(1, dtype=torch.float64)
    for length in range(len(targets) + 1):
        here = torch.where(length_S == length, weight_S, 0)
        mass_S = mass_S.index_add(0, code_S.clamp(max=len(mass_S) - 1), here)
        if length < len(targets):
            mass_S = (mass_S[:, None] * targets[length]).flatten()
    return mass_S.reshape((vocabulary,) * len(targets))
