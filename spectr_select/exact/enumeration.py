"""The exact law of the text that a rule emits: the code that decodes, run under every outcome of every draw and coin.

The law of a single round need not be a law of texts of one length, since rounds accept different numbers of drafts. So
every text is completed by the target to one token more than the tree's depth. A lossless rule then yields exactly the
target's law of such texts.
"""

# B rows, I pairs of models, N tree nodes, R branches, S texts of one length or of branches, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    """Return the exact law of the first token that a rule emits after the root.

    Time and memory grow with V^k, so the vocabulary must be small.

    Args:
        rule: A name of ``RULES``.
        target_BV: The target's laws; weights of any float dtype.
        draft_BV: The draft's laws.
        k: The number of drafts.

    Returns:
        Laws, float64 [B, V]; if the rule is lossless, they are the target's.

    Raises:
        ValueError: The rule is unknown, does not take k drafts, or is a race, whose outcomes cannot be enumerated.
    """
    check_pair(target_BV, draft_BV)
    tree, target_BV = DraftTree.paths(k, 1), normalised(target_BV)
    # The sum over the second token makes its law irrelevant, so the target's law after the root serves again.
    after_BSV = target_BV[:, None].expand(-1, target_BV.shape[1], -1)
    return sequence_laws(rule, tree, [target_BV[:, None], after_BSV], [normalised(draft_BV)[:, None]]).sum(2)


def sequence_law(rule: str, tree: DraftTree, target: TextLaw, draft: TextLaw) -> torch.Tensor:
    """Return the exact law of the text that a round emits, completed by the target to ``tree.depth + 1`` tokens.

    Args:
        rule: A name of ``RULES``.
        tree: The topology of the drafts.
        target: The target model, a function ``tokens -> law_V`` that returns the law after a text.
        draft: The draft model, a function of the same kind.

    Returns:
        The law of the text, float64 with one dimension of V for each token; if the rule is lossless, it equals
        ``text_law(target, tree.depth + 1)``.

    Raises:
        ValueError: The rule is unknown, does not take the tree, or is a race, whose outcomes cannot be enumerated.
    """
    return sequence_laws(rule, tree, text_tables(target, tree.depth + 1), text_tables(draft, tree.depth))[0]


def sequence_laws(rule: str, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]) -> torch.Tensor:
    """Return ``sequence_law`` for many pairs of models at once.

    Args:
        rule: A name of ``RULES``.
        tree: The topology of the drafts.
        targets: For every depth up to ``tree.depth``, the targets' laws after all texts of that many tokens; normalised
            float64 [I, S, V]. The index of a text is the number that its tokens spell in base V.
        drafts: The drafts' laws in the same form, for every depth up to ``tree.depth - 1``.

    Returns:
        The laws of the texts, float64 with a dimension I and one of V for each of ``tree.depth + 1`` tokens.

    Raises:
        ValueError: As ``sequence_law``.
    """
    outcomes = _outcomes(rule_named(rule), tree, targets, drafts)
    return _completed(targets, outcomes.pair_R, outcomes.code_R, outcomes.length_R, outcomes.weight_R)


def expected_lengths(
    rule: str, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]
) -> torch.Tensor:
    """Return the expected tokens of a round, float64 [I]; the arguments and errors are those of ``sequence_laws``."""
    outcomes = _outcomes(rule_named(rule), tree, targets, drafts)
    nothing_I = torch.zeros(len(targets[0]), dtype=torch.float64)
    return nothing_I.index_add(0, outcomes.pair_R, outcomes.weight_R * outcomes.length_R)


def text_law(law: TextLaw, length: int) -> torch.Tensor:
    """Return the law of the first ``length`` tokens of a model; float64 with one dimension of V for each token."""
    return text_laws(text_tables(law, length))[0]


def text_laws(tables: list[torch.Tensor]) -> torch.Tensor:
    """Return ``text_law`` of many models at once, for texts of one token for each table of laws [I, S, V]."""
    pairs = len(tables[0])
    nothing = torch.zeros(pairs, dtype=torch.int64)
    return _completed(tables, torch.arange(pairs), nothing, nothing, torch.ones(pairs, dtype=torch.float64))


def text_tables(law: TextLaw, length: int) -> list[torch.Tensor]:
    """Return a model's laws after texts of 0 to ``length - 1`` tokens, in the form of ``sequence_laws``; [1, S, V]."""
    vocabulary = len(law(()))
    texts = (product(range(vocabulary), repeat=depth) for depth in range(max(length, 1)))
    return [normalised(torch.stack([torch.as_tensor(law(text)) for text in some]))[None] for some in texts]


@dataclass(frozen=True, slots=True)
class _Outcomes:
    """Everything that can come of a round.

    Attributes:
        pair_R: The pair of models.
        code_R: The number that the emitted text spells.
        length_R: The number of its tokens.
        weight_R: The probability.
    """

    pair_R: torch.Tensor
    code_R: torch.Tensor
    length_R: torch.Tensor
    weight_R: torch.Tensor


def _outcomes(rule: Rule, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]) -> _Outcomes:
    rule.check_tree(tree)
    vocabulary = targets[0].shape[2]
    tokens_RN, weight_R, pair_R = drawn_trees(rule, tree, drafts, len(targets[0]))
    code_RN = text_codes(tree, tokens_RN, vocabulary)
    laws_RNV = _laws(targets, tree, pair_R, code_RN, tree.size)
    drafts_RPV = _laws(drafts, tree, pair_R, code_RN, tree.inner)

    def select(chance: Branches) -> Selection:
        row_R = chance.row_R
        return rule.select(Round(tree, tokens_RN[row_R], laws_RNV[row_R], drafts_RPV[row_R]), chance)

    chosen, branches = every_branch(len(weight_R), select)
    node_R = torch.cat([torch.zeros_like(chosen.count_B[:, None]), chosen.accepted_BD], 1).amax(1)
    row_R = branches.row_R
    code_R = code_RN[row_R, node_R] * vocabulary + chosen.token_B
    return _Outcomes(pair_R[row_R], code_R, chosen.count_B + 1, weight_R[row_R] * branches.weight_R)


def drawn_trees(
    rule: Rule, tree: DraftTree, drafts: list[torch.Tensor], pairs: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return all trees that can be drawn, their probabilities, and the pair of models that each belongs to."""
    tokens_RN, weight_R = torch.zeros((pairs, 1), dtype=torch.int64), torch.ones(pairs, dtype=torch.float64)
    pair_R = torch.arange(pairs)
    for depth in range(1, tree.depth + 1):
        above = tree.levels[depth - 1]
        code_RM = text_codes(tree, tokens_RN, drafts[0].shape[2])[:, above.start :]
        laws_RMV = drafts[depth - 1][pair_R[:, None], code_RM]
        tokens_RW, branches = every_branch(len(weight_R), partial(_draw, rule, tree, depth, laws_RMV))
        tokens_RN = torch.cat([tokens_RN[branches.row_R], tokens_RW], 1)
        weight_R, pair_R = weight_R[branches.row_R] * branches.weight_R, pair_R[branches.row_R]
    return tokens_RN, weight_R, pair_R


def _draw(rule: Rule, tree: DraftTree, depth: int, laws_RMV: torch.Tensor, chance: Branches) -> torch.Tensor:
    return draw_level(rule, tree, depth, laws_RMV[chance.row_R], chance)


def text_codes(tree: DraftTree, tokens_RN: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Return the number, in base V, of the text that ends at each drawn node; 0 for the empty text of the root."""
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
    """Return the laws of texts of ``len(targets)`` tokens [I, V, ..., V].

    The first ``length_S`` tokens of a text are those of the number ``code_S``; the targets complete the text.
    """
    pairs, _, vocabulary = targets[0].shape
    mass_IS = torch.zeros((pairs, 1), dtype=torch.float64)
    for length in range(len(targets) + 1):
        here_S = length_S == length
        index_S = pair_S * mass_IS.shape[1] + torch.where(here_S, code_S, 0)
        mass_IS = mass_IS.flatten().index_add(0, index_S, torch.where(here_S, weight_S, 0)).view_as(mass_IS)
        if length < len(targets):
            mass_IS = (mass_IS[:, :, None] * targets[length]).flatten(1)
    return mass_IS.reshape(pairs, *(vocabulary,) * len(targets))
