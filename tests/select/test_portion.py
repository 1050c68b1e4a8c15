"""Portions of the rows: how a batch is divided, and that no draw and no selection depends on it."""

from __future__ import annotations

import pytest
import torch
from scripts import ROOT, load_script

from spectr_select import RULES, DraftTree, Noise, Role, draw, portion, seed_of, select
from spectr_select.portion import portions

CPU, ROWS, VOCABULARY = torch.device("cpu"), 11, 1001
TREES = {"chain": DraftTree.chain(3), "paths": DraftTree.paths(3, 2), "any": DraftTree((-1, 0, 0, 0, 1, 1, 3, 6))}


@pytest.mark.parametrize("rows", [0, 1, 7, 64, 65])
@pytest.mark.parametrize("weights", [0, 1, 2**17, 2**30])
def test_portions_cover_the_rows_in_their_order(rows: int, weights: int) -> None:
    parts = portions(rows, weights, CPU)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    sizes = [part.stop - part.start for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 1 or 8 * max(sizes) * weights <= portion.PORTION_BYTES


def test_an_accelerator_takes_all_rows_at_once() -> None:
    assert portions(64, 2**20, torch.device("cuda")) == [slice(0, 64)]


def test_the_noise_of_a_portion_is_that_of_its_rows() -> None:
    noise = Noise(torch.arange(9), 3 * torch.arange(9))
    part = noise.portion(slice(4, 7))
    assert torch.equal(part.exponential(Role.RACE, 2, 30), noise.exponential(Role.RACE, 2, 30)[4:7])
    assert torch.equal(part.uniform(Role.ACCEPT, 2, 3), noise.uniform(Role.ACCEPT, 2, 3)[4:7])
    assert noise.portion(slice(4, 7)) is part, "its numbers are kept"
    assert noise.portion(slice(0, 9)) is noise


def play(rule: str, tree: DraftTree) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits_BNV = torch.randn((ROWS, tree.size, VOCABULARY), generator=generator)
    noisy_BPV = logits_BNV[:, : tree.inner] + torch.randn((ROWS, tree.inner, VOCABULARY), generator=generator)
    target_BNV, draft_BPV = logits_BNV.softmax(2), noisy_BPV.softmax(2)
    noise = Noise(torch.tensor([seed_of(0, str(row)) for row in range(ROWS)]), torch.arange(ROWS))
    tokens_BN = torch.zeros((ROWS, tree.size), dtype=torch.int64)
    for depth, level in enumerate(tree.levels[1:], start=1):
        # A level may end in nodes without children, whose draft laws are never read.
        above = torch.cat([draft_BPV, target_BNV[:, tree.inner :]], 1)[:, tree.levels[depth - 1].start : level.start]
        tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, above, noise)
    chosen = select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise)
    return [tokens_BN, chosen.accepted_BD, chosen.count_B, chosen.token_B]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("rows", [1, 4])
def test_portions_leave_every_row_as_it_is(rule: str, rows: int, monkeypatch) -> None:
    tree = TREES[RULES[rule].trees]
    together = play(rule, tree)
    monkeypatch.setattr(portion, "PORTION_BYTES", 8 * rows * VOCABULARY)
    assert len(portions(ROWS, VOCABULARY, CPU)) == -(-ROWS // rows)
    assert all(torch.equal(one, other) for one, other in zip(play(rule, tree), together, strict=True))


@pytest.mark.parametrize(
    ("tree", "buffers"),
    [
        (DraftTree.chain(3), 5),
        (DraftTree.paths(8, 1), 7),
        (DraftTree.paths(8, 2), 3 * 8),
        (DraftTree.branching((2, 2, 2)), 5 * 4),
    ],
    ids=["chain", "one text", "paths", "branching"],
)
def test_a_block_without_portions_holds_all_texts_of_a_level(tree: DraftTree, buffers: int, monkeypatch) -> None:
    """Count the buffers [B, V] that an accelerator, which takes all rows at once, holds; see the README."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    peak, rows, vocabulary = load_script("benchmarks/selection.py").peak, 2, 30_000
    monkeypatch.setattr(portion, "PORTION_BYTES", 2**40)
    generator = torch.Generator().manual_seed(0)
    laws = (torch.rand((rows, nodes, vocabulary), generator=generator) for nodes in (tree.size, tree.inner))
    assert peak("otm-block", tree, *laws) / (8 * rows * vocabulary) == pytest.approx(buffers, abs=0.3)
