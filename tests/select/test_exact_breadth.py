"""Losslessness by enumeration on hundreds of pairs of models, each with a different law after every text."""

# I pairs of models, S texts of one length, V vocabulary.
from __future__ import annotations

import pytest
import torch

from spectr_select import RULES, DraftTree
from spectr_select.exact.enumeration import sequence_laws, text_laws

RACES = ("race", "gls")  # their outcomes are infinitely many
EXACT = 1e-12
# (tree, vocabulary, pairs of models): 240 for every rule of many drafts.
SIZES = [
    (DraftTree.paths(3, 1), 4, 80),
    (DraftTree.paths(2, 2), 3, 80),
    (DraftTree.paths(2, 3), 2, 60),
    (DraftTree.paths(3, 2), 3, 8),
    (DraftTree.paths(2, 2), 4, 8),
    (DraftTree.paths(3, 3), 2, 4),
]
CHAINS = [(DraftTree.chain(1), 4, 80), (DraftTree.chain(2), 4, 80), (DraftTree.chain(3), 4, 80)]
CASES = [
    pytest.param(rule, *size, id=f"{rule}-{size[0].drafts // size[0].depth}x{size[0].depth}-V{size[1]}")
    for rule in RULES
    if rule not in RACES
    for size in (CHAINS if RULES[rule].trees == "chain" else SIZES)
    if RULES[rule].drawing == "iid" or len(size[0].levels[1]) <= size[1]
]


def random_laws(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    sharpness = 4 * torch.rand((*shape[:-1], 1), generator=generator, dtype=torch.float64)
    return (sharpness * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)


def degenerate(
    target_RV: torch.Tensor, draft_RV: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn every pair of laws into one of the kinds that break careless code."""
    vocabulary = target_RV.shape[1]
    place_V, rows = torch.arange(vocabulary), len(target_RV)
    one_RV = torch.eye(vocabulary, dtype=torch.float64)[torch.randint(vocabulary, (rows,), generator=generator)]
    left_V = (place_V < vocabulary // 2).double()
    tied_RV = torch.randint(1, 3, target_RV.shape, generator=generator).double()
    even_RV = torch.ones_like(target_RV)
    kinds = [
        (target_RV, target_RV),
        (target_RV * left_V, draft_RV * (1 - left_V)),
        (one_RV, draft_RV),
        (target_RV, one_RV),
        (one_RV, one_RV),
        (tied_RV, tied_RV * (1 + place_V % 2)),
        (even_RV, even_RV * (1 + 1e-15 * place_V)),
        (target_RV * (place_V > 0), draft_RV * (place_V < vocabulary - 1)),
        (target_RV**40, draft_RV),
        (target_RV, draft_RV**40),
        (target_RV, target_RV * (1 - 1e-9 * place_V)),
    ]
    kind_R = torch.randint(len(kinds), (rows,), generator=generator)
    return tuple(torch.stack(laws)[kind_R, torch.arange(rows)] for laws in zip(*kinds, strict=True))


def tables(
    pairs: int, vocabulary: int, depth: int, spoil: float, seed: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return laws of targets and drafts [I, S, V] for every depth, of which the share ``spoil`` is degenerate."""
    generator = torch.Generator().manual_seed(seed)
    targets, drafts = [], []
    for length in range(depth + 1):
        shape = pairs, vocabulary**length, vocabulary
        target_RV, draft_RV = (random_laws(shape, generator).flatten(0, 1) for _ in range(2))
        spoilt_R1 = torch.rand((len(target_RV), 1), generator=generator) < spoil
        worse = degenerate(target_RV, draft_RV, generator)
        for some, law_RV, worse_RV in ((targets, target_RV, worse[0]), (drafts, draft_RV, worse[1])):
            law_RV = torch.where(spoilt_R1, worse_RV, law_RV)
            some.append((law_RV / law_RV.sum(1, keepdim=True)).view(shape))
    return targets, drafts[:-1]


@pytest.mark.usefixtures("proposed_once")
@pytest.mark.parametrize("spoil", [0.0, 1.0], ids=["random", "degenerate"])
@pytest.mark.parametrize(("rule", "tree", "vocabulary", "pairs"), CASES)
def test_texts_follow_the_target(rule: str, tree: DraftTree, vocabulary: int, pairs: int, spoil: float) -> None:
    targets, drafts = tables(pairs, vocabulary, tree.depth, spoil, seed=tree.size)
    strays = (sequence_laws(rule, tree, targets, drafts) - text_laws(targets)).abs().flatten(1).sum(1) / 2
    assert float(strays.max()) <= EXACT


def test_one_wrong_pair_among_many_is_found(monkeypatch) -> None:
    """Spoil the draft's law after one text of one pair: the distance, which is that of the worst pair, must show it."""
    targets, drafts = tables(20, 3, 2, 0.0, seed=3)
    rule, tree = RULES["kseq"], DraftTree.paths(2, 2)

    def draw(level, chance):
        # Pair 7 has a unique law after the text (2,); there the drafts are drawn from its mirror image.
        mark_V = drafts[1][7, 2]
        off_BM1 = ((level.draft_BMV - mark_V).abs().sum(2, keepdim=True) < 1e-15).double()
        law_BMV = level.draft_BMV * (1 - off_BM1) + level.draft_BMV.flip(2) * off_BM1
        return rule.draw(type(level)(law_BMV, level.families, level.depth), chance)

    monkeypatch.setitem(RULES, "broken", type(rule)("broken", "iid", draw, rule.select))
    strays = (sequence_laws("broken", tree, targets, drafts) - text_laws(targets)).abs().flatten(1).sum(1) / 2
    assert float(strays[7]) > 1e3 * EXACT
    assert float(torch.cat([strays[:7], strays[8:]]).max()) <= EXACT
