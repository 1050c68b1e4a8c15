"""Drawing and selecting: the results, the independence of rows, what a CUDA graph can record, and refused arguments."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from capturable import capturable

from spectr_select import RULES, DraftTree, Noise, draw, seed_of, select

RAGGED = DraftTree((-1, 0, 0, 0, 1, 1, 3, 6))
TREES = {"chain": DraftTree.chain(3), "paths": DraftTree.paths(3, 2), "ragged": RAGGED, "root": DraftTree.chain(0)}


def accepts(rule: str, tree: DraftTree) -> bool:
    return tree.is_chain or RULES[rule].trees == "any" or (RULES[rule].trees == "paths" and tree.is_paths)


def pairs(trees: dict[str, DraftTree]) -> list[tuple[str, str]]:
    return [(rule, name) for rule in RULES for name, tree in trees.items() if accepts(rule, tree)]


PAIRS = pairs(TREES)
CAPTURED = {**TREES, "two paths": DraftTree.paths(2, 3), "three paths": DraftTree.paths(3, 3)}


def noise_of(rows: int, first: int = 0, position: int = 9) -> Noise:
    seeds = [seed_of(3, str(row)) for row in range(first, first + rows)]
    return Noise(torch.tensor(seeds), torch.full((rows,), position))


def laws_of(rows: int, nodes: int, vocabulary: int, seed: int = 0, sharpness: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn((rows, nodes, vocabulary), generator=generator)).softmax(2)


def play(rule: str, tree: DraftTree, target_BNV: torch.Tensor, draft_BPV: torch.Tensor, noise: Noise):
    tokens_BN = torch.zeros((len(target_BNV), tree.size), dtype=torch.int64, device=target_BNV.device)
    for depth, level in enumerate(tree.levels[1:], start=1):
        above = tree.levels[depth - 1]
        laws_BMV = torch.cat([draft_BPV, target_BNV[:, tree.inner :]], 1)[:, above.start : above.stop]
        tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, laws_BMV, noise)
    return tokens_BN, select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise)


def play_on(device: str, rule: str, tree: DraftTree, seed: int, *, certain: bool) -> None:
    """Play a round with laws, tokens and noise of its own, and one with drafts that were given where there can be."""
    laws = laws_of(3, tree.size, 300, seed), laws_of(3, tree.inner, 300, seed + 1)
    if certain:
        laws = tuple(torch.zeros_like(law).scatter_(2, law.argmax(2, keepdim=True), 1) for law in laws)
    target_BNV, draft_BPV = (law.to(device) for law in laws)
    seed_B, position_B = (part.to(device) for part in (noise_of(3).seed_B + seed, noise_of(3).position_B + seed))
    tokens_BN = torch.full((3, tree.size), 7 + seed, device=device)
    with capturable() if seed else nullcontext():
        play(rule, tree, target_BNV, draft_BPV, Noise(seed_B, position_B, certain))
        if tree.is_chain or RULES[rule].invariant:
            select(rule, tree, tokens_BN, target_BNV, None, Noise(seed_B, position_B, certain))


@pytest.mark.parametrize("certain", [False, True], ids=["drawn", "certain"])
@pytest.mark.parametrize(("rule", "tree"), pairs(CAPTURED))
def test_every_round_but_the_first_can_be_captured(rule: str, tree: str, certain: bool) -> None:
    for seed in (0, 5):
        play_on("cpu", rule, CAPTURED[tree], seed, certain=certain)


@pytest.mark.parametrize(("rule", "tree"), [pair for pair in PAIRS if pair[1] != "root"])
def test_a_round_uses_one_device(rule: str, tree: str) -> None:
    for seed in (0, 5):
        play_on("meta", rule, TREES[tree], seed, certain=False)


@pytest.mark.parametrize(("rule", "tree"), PAIRS)
def test_selection_is_a_path_of_the_tree(rule: str, tree: str) -> None:
    tree, rows = TREES[tree], 200
    target_BNV, draft_BPV = laws_of(rows, tree.size, 4), laws_of(rows, tree.inner, 4, seed=1)
    _, chosen = play(rule, tree, target_BNV, draft_BPV, noise_of(rows))
    assert chosen.accepted_BD.shape == (rows, tree.depth)
    assert chosen.accepted_BD.dtype == chosen.count_B.dtype == chosen.token_B.dtype == torch.int64
    for accepted, count in zip(chosen.accepted_BD.tolist(), chosen.count_B.tolist(), strict=True):
        path = accepted[:count]
        assert accepted[count:] == [-1] * (tree.depth - count)
        assert tree.path(path[-1] if path else 0) == tuple(path)
    assert bool(((chosen.token_B >= 0) & (chosen.token_B < 4)).all())
    if tree.depth:
        assert set(chosen.count_B.tolist()) == set(range(tree.depth + 1)), "every length occurs"


@pytest.mark.parametrize(("rule", "tree"), PAIRS)
def test_a_row_does_not_depend_on_its_batch(rule: str, tree: str) -> None:
    tree, rows = TREES[tree], 6
    target_BNV, draft_BPV = laws_of(rows, tree.size, 7), laws_of(rows, tree.inner, 7, seed=1)
    tokens_BN, chosen = play(rule, tree, target_BNV, draft_BPV, noise_of(rows))
    for row in range(rows):
        one = slice(row, row + 1)
        tokens_1N, alone = play(rule, tree, target_BNV[one], draft_BPV[one], noise_of(1, first=row))
        assert torch.equal(tokens_1N, tokens_BN[one])
        assert torch.equal(alone.accepted_BD, chosen.accepted_BD[one])
        assert torch.equal(alone.token_B, chosen.token_B[one])


@pytest.mark.parametrize(("rule", "tree"), PAIRS)
def test_equal_laws_accept_a_whole_path(rule: str, tree: str) -> None:
    tree, rows = TREES[tree], 50
    target_BV = laws_of(rows, 1, 6)
    target_BNV, draft_BPV = target_BV.expand(-1, tree.size, -1), target_BV.expand(-1, tree.inner, -1)
    _, chosen = play(rule, tree, target_BNV, draft_BPV, noise_of(rows))
    leaves = {node for node in range(tree.size) if node not in tree.parents}
    last = torch.cat([torch.zeros((rows, 1), dtype=torch.int64), chosen.accepted_BD], 1).amax(1)
    assert set(last.tolist()) <= leaves


@pytest.mark.parametrize(("rule", "tree"), PAIRS)
def test_disjoint_laws_accept_nothing(rule: str, tree: str) -> None:
    tree, rows = TREES[tree], 50
    half_V = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    target_BNV = laws_of(rows, tree.size, 8) * half_V
    _, chosen = play(rule, tree, target_BNV, laws_of(rows, tree.inner, 8) * (1 - half_V), noise_of(rows))
    assert int(chosen.count_B.sum()) == 0
    assert bool((chosen.token_B < 4).all())


def test_the_root_alone_is_plain_decoding() -> None:
    target_BNV = laws_of(500, 1, 3, sharpness=0.0)
    _, chosen = play("single", DraftTree.chain(0), target_BNV, torch.empty((500, 0, 0)), noise_of(500))
    assert chosen.accepted_BD.shape == (500, 0)
    assert bool((chosen.token_B.bincount(minlength=3) > 100).all())


def test_single_is_kseq_on_a_chain_bit_for_bit() -> None:
    tree, rows = DraftTree.chain(4), 300
    target_BNV, draft_BPV = laws_of(rows, tree.size, 9), laws_of(rows, tree.inner, 9, seed=1)
    tokens, single = play("single", tree, target_BNV, draft_BPV, noise_of(rows))
    same, kseq = play("kseq", tree, target_BNV, draft_BPV, noise_of(rows))
    assert torch.equal(tokens, same)
    assert torch.equal(single.accepted_BD, kseq.accepted_BD)
    assert torch.equal(single.token_B, kseq.token_B)


def test_a_failed_coin_does_not_end_a_path_that_spells_the_emitted_token(monkeypatch) -> None:
    tree = DraftTree.paths(2, 2)
    same_BNV = torch.tensor([0.5, 0.5]).expand(1, tree.size, 2)
    tokens_BN = torch.tensor([[0, 1, 1, 0, 1]])  # both paths start with 1; the target wants 1, 1
    target_BNV = same_BNV.clone()
    target_BNV[:, 1:3] = torch.tensor([0.0, 1.0])
    coins = iter([[1], [1]])  # at either depth the second candidate is the first to succeed
    monkeypatch.setattr(Noise, "first", lambda *_: torch.tensor(next(coins)))
    chosen = select("kseq", tree, tokens_BN, target_BNV, same_BNV[:, : tree.inner], noise_of(1))
    assert chosen.accepted_BD.tolist() == [[2, 4]]


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].drawing == "iid"])
def test_a_coin_of_zero_accepts_nothing_impossible(rule: str, monkeypatch) -> None:
    monkeypatch.setattr(Noise, "uniform", lambda self, role, node, count: torch.zeros((1, count), dtype=torch.float64))
    tree = DraftTree.chain(1)
    target_BNV = torch.tensor([0.0, 1.0]).expand(1, 2, 2)
    chosen = select(rule, tree, torch.tensor([[0, 0]]), target_BNV, torch.tensor([[[1.0, 0.0]]]), noise_of(1))
    assert chosen.count_B.tolist() == [0]
    assert chosen.token_B.tolist() == [1]


@pytest.mark.parametrize("rule", RULES)
def test_a_large_vocabulary(rule: str) -> None:
    tree, vocabulary = DraftTree.chain(2) if RULES[rule].trees == "chain" else DraftTree.paths(2, 2), 128_000
    target_BNV, draft_BPV = (
        laws_of(2, tree.size, vocabulary, sharpness=4),
        laws_of(2, tree.inner, vocabulary, sharpness=4),
    )
    tokens_BN, chosen = play(rule, tree, target_BNV, draft_BPV, noise_of(2))
    assert bool((tokens_BN < vocabulary).all())
    assert bool((chosen.token_B < vocabulary).all())


def call(**change):
    tree = DraftTree.paths(2, 1)
    arguments = {
        "rule": "kseq",
        "tree": tree,
        "tokens_BN": torch.zeros((2, 3), dtype=torch.int64),
        "target_BNV": laws_of(2, 3, 4),
        "draft_BPV": laws_of(2, 1, 4),
        "noise": noise_of(2),
    }
    return select(**{**arguments, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rule": "best"}, "Rule 'best' is unknown; the rules are single, kseq"),
        ({"rule": "single"}, "takes a single chain"),
        ({"tokens_BN": torch.zeros((2, 3), dtype=torch.int32)}, r"int64 of shape \[2, 3\].*got torch.int32"),
        ({"tokens_BN": torch.zeros((2, 4), dtype=torch.int64)}, r"got torch.int64 of shape \[2, 4\]"),
        ({"target_BNV": laws_of(2, 1, 4)}, r"target_BNV must be floats of shape \[2, 3, V\].*shape \[2, 1, 4\]"),
        ({"target_BNV": torch.ones((2, 3, 4), dtype=torch.int64)}, "target_BNV must be floats"),
        ({"draft_BPV": laws_of(2, 3, 4)}, r"draft_BPV must be floats of shape \[2, 1, V\]"),
        ({"draft_BPV": laws_of(2, 1, 5)}, "share a vocabulary; got 5 and 4"),
        ({"noise": noise_of(3)}, r"of shape \[3, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, message: str) -> None:
    call()
    with pytest.raises(ValueError, match=message):
        call(**change)


def test_more_distinct_siblings_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="distinct siblings; got 3 of them and 2 tokens"):
        draw("rrsw", DraftTree.paths(3, 1), 1, laws_of(1, 1, 2), noise_of(1))


def test_levels_that_do_not_exist_are_refused() -> None:
    for depth in (0, 2):
        with pytest.raises(ValueError, match=f"Depth {depth} cannot be drawn; the tree has depths 1 to 1"):
            draw("kseq", DraftTree.paths(2, 1), depth, laws_of(1, 1, 3), noise_of(1))
    with pytest.raises(ValueError, match=r"draft_BMV must be floats of shape \[1, 1, V\]"):
        draw("kseq", DraftTree.paths(2, 1), 1, laws_of(1, 2, 3), noise_of(1))
