"""The two halves of a round: drawing the drafts of a tree level by level, and selecting from the scored tree."""

# B rows, M and W nodes of two adjacent levels, N tree nodes, P nodes with a draft law, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.chance import Chance
from spectr_select.noise import Noise
from spectr_select.portion import portions
from spectr_select.rule import Level, Round, Rule
from spectr_select.rules import rule_named
from spectr_select.selection import Selection, joined
from spectr_select.tree import DraftTree, as_index


def draw(rule: str, tree: DraftTree, depth: int, draft_BMV: torch.Tensor, noise: Noise) -> torch.Tensor:
    """Draw the tokens of one level of a tree as the rule needs them.

    Args:
        rule: A name of ``RULES``.
        tree: The topology of the drafts.
        depth: The level to draw, 1 to ``tree.depth``.
        draft_BMV: The draft's laws after the nodes of the level above, in their order; weights of any float dtype.
        noise: The round's noise.

    Returns:
        The tokens of the nodes ``tree.levels[depth]``, int64 [B, W].

    Raises:
        ValueError: The rule is unknown or does not take the tree, the level does not exist, or shapes do not fit.
    """
    found = rule_named(rule)
    found.check_tree(tree)
    if not 1 <= depth <= tree.depth:
        raise ValueError(f"Depth {depth} cannot be drawn; the tree has depths 1 to {tree.depth}.")
    _check_laws_shape("draft_BMV", draft_BMV, len(noise.seed_B), len(tree.levels[depth - 1]))
    # A race is drawn one family at a time, so one law of a row is worked on; and its noise is kept for the selection,
    # which must therefore divide the rows in the same way.
    weights = draft_BMV[:1, :1].numel() if found.drawing == "race" else draft_BMV[:1].numel()
    parts = portions(len(draft_BMV), weights, draft_BMV.device)
    return torch.cat([draw_level(found, tree, depth, draft_BMV[rows], noise.portion(rows)) for rows in parts])


def select(
    rule: str,
    tree: DraftTree,
    tokens_BN: torch.Tensor,
    target_BNV: torch.Tensor,
    draft_BPV: torch.Tensor | None,
    noise: Noise,
) -> Selection:
    """Accept a path of the drafts and add one token, such that the text follows the target's law.

    The host never waits for the device. The laws are not checked for that reason; ``check_laws`` does it.

    Args:
        rule: A name of ``RULES``, the same as for drawing.
        tree: The topology of the drafts.
        tokens_BN: The tokens of the nodes, beginning with the root's; int64.
        target_BNV: The target's law after every node; weights of any float dtype.
        draft_BPV: The very laws that the children of the ``tree.inner`` leading nodes were drawn from. None for drafts
            that were certain before any of the noise was drawn, as if they were drawn from point masses; only races
            take several of them after one node.
        noise: The round's noise, the same as for drawing.

    Returns:
        The accepted path and the token after it, for every row.

    Raises:
        ValueError: The rule is unknown or does not take the tree, or shapes or dtypes do not fit.
    """
    found = rule_named(rule)
    found.check_tree(tree)
    rows = len(noise.seed_B)
    if tokens_BN.dtype != torch.int64 or tokens_BN.shape != (rows, tree.size):
        raise ValueError(
            f"tokens_BN must be int64 of shape {[rows, tree.size]} (rows of the noise, nodes of the tree); "
            f"got {tokens_BN.dtype} of shape {list(tokens_BN.shape)}."
        )
    _check_laws_shape("target_BNV", target_BNV, rows, tree.size)
    if draft_BPV is None:
        draft_BPV = _point_masses(found, tree, tokens_BN, target_BNV)
    if tree.inner:
        _check_laws_shape("draft_BPV", draft_BPV, rows, tree.inner)
        if draft_BPV.shape[2] != target_BNV.shape[2]:
            raise ValueError(
                f"Draft and target must share a vocabulary; got {draft_BPV.shape[2]} and {target_BNV.shape[2]} tokens."
            )
    parts = [
        found.select(Round(tree, tokens_BN[some], target_BNV[some], draft_BPV[some]), noise.portion(some))
        for some in portions(rows, target_BNV[:1, :1].numel(), target_BNV.device)
    ]
    return parts[0] if len(parts) == 1 else joined(parts)


def draw_level(rule: Rule, tree: DraftTree, depth: int, draft_BMV: torch.Tensor, chance: Chance) -> torch.Tensor:
    """Draw the tokens of one level as ``draw`` does, given the rule itself and any ``Chance``."""
    above, families = tree.levels[depth - 1], tree.families(depth)
    _check_enough(rule, max(map(len, families)), draft_BMV.shape[2])
    if len(families) < len(above):
        parents = as_index((tree.parents[nodes[0]] - above.start for nodes in families), draft_BMV.device)
        draft_BMV = draft_BMV.index_select(1, parents)
    tokens_BW = rule.draw(Level(draft_BMV, families, depth), chance)
    order = tuple(node for nodes in families for node in nodes)
    if order == tuple(tree.levels[depth]):
        return tokens_BW
    return tokens_BW.index_select(1, as_index((order.index(node) for node in tree.levels[depth]), tokens_BW.device))


def _point_masses(rule: Rule, tree: DraftTree, tokens_BN: torch.Tensor, target_BNV: torch.Tensor) -> torch.Tensor:
    """Return the point masses of a chain's drafts as laws [B, P, V]; zeros without memory for a rule that reads none.

    Raises:
        ValueError: The rule reads laws, and the tree has siblings.
    """
    sizes = (len(tokens_BN), tree.inner, target_BNV.shape[2])
    if rule.invariant:
        return target_BNV.new_zeros(()).expand(sizes)
    if not tree.is_chain:
        raise ValueError(
            f"Rule {rule.name!r} takes drafts without a law from a single chain; got the tree {tree.parents}. "
            "Use DraftTree.chain, or the rule 'race'."
        )
    return target_BNV.new_zeros(sizes).scatter_(2, tokens_BN[:, 1:, None], 1)


def _check_enough(rule: Rule, siblings: int, vocabulary: int) -> None:
    if rule.drawing != "iid" and siblings > vocabulary:
        raise ValueError(
            f"Rule {rule.name!r} draws distinct siblings; got {siblings} of them and {vocabulary} tokens. "
            "Use a narrower tree, or a rule that draws them independently."
        )


def _check_laws_shape(name: str, law_BNV: torch.Tensor, rows: int, nodes: int) -> None:
    if not law_BNV.is_floating_point() or law_BNV.ndim != 3 or law_BNV.shape[:2] != (rows, nodes):
        raise ValueError(
            f"{name} must be floats of shape [{rows}, {nodes}, V] (rows of the noise, nodes of the tree, vocabulary); "
            f"got {law_BNV.dtype} of shape {list(law_BNV.shape)}."
        )
