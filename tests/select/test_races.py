"""Races: the emitted text is Gumbel-max sampling of the target, whatever is drafted."""

# B rows, N tree nodes, V vocabulary.
from __future__ import annotations

import itertools

import pytest
import torch

from spectr_select import DraftTree, Noise, Role, acceptance, draw, seed_of, select
from spectr_select.exact.enumeration import text_law

VOCABULARY = 6
TREES = [
    DraftTree.chain(1),
    DraftTree.chain(4),
    DraftTree.paths(3, 2),
    DraftTree.branching((2, 2)),
    DraftTree((-1, 0, 0, 0, 1, 1, 3, 6)),
]


def table(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((VOCABULARY, VOCABULARY), generator=generator).softmax(1)


def decode(
    rule: str, tree: DraftTree, target_VV: torch.Tensor, draft_VV: torch.Tensor, length: int, seed: int
) -> list[int]:
    """Return the text of one row, decoded in rounds, with laws of both models that depend on the last token."""
    text = [0]
    while len(text) <= length:
        noise = Noise(torch.tensor([seed]), torch.tensor([len(text) - 1]))
        tokens_BN = torch.full((1, tree.size), text[-1])
        for depth, level in enumerate(tree.levels[1:], start=1):
            above = tree.levels[depth - 1]
            laws_BMV = draft_VV[tokens_BN[:, above.start : above.stop]]
            tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, laws_BMV, noise)
        chosen = select(rule, tree, tokens_BN, target_VV[tokens_BN], draft_VV[tokens_BN[:, : tree.inner]], noise)
        path = chosen.accepted_BD[0, : int(chosen.count_B)]
        text += [*tokens_BN[0, path].tolist(), int(chosen.token_B)]
    return text[1 : length + 1]


def gumbel_max(target_VV: torch.Tensor, length: int, seed: int) -> list[int]:
    text = [0]
    for position in range(length):
        noise = Noise(torch.tensor([seed]), torch.tensor([position]))
        gumbel_V = -noise.exponential(Role.RACE, 1, VOCABULARY)[0].log()
        text.append(int((target_VV[text[-1]].double().log() + gumbel_V).argmax()))
    return text[1:]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: f"{tree.drafts} drafts")
@pytest.mark.parametrize("draft_seed", [0, 1], ids=["the target as draft", "another draft"])
def test_a_race_writes_the_text_of_plain_decoding(tree: DraftTree, draft_seed: int) -> None:
    target_VV, seed = table(0), seed_of(0, "row")
    plain = decode("race", DraftTree.chain(0), target_VV, table(2), 40, seed)
    assert plain == gumbel_max(target_VV, 40, seed)
    assert decode("race", tree, target_VV, table(draft_seed), 40, seed) == plain


def test_rounds_without_drafts_between_rounds_of_a_tree_leave_the_text() -> None:
    """A batch may take another tree in every round, or none, and then it has no draft laws either."""
    rows, length, trees = 5, 30, [DraftTree.chain(0), *TREES]
    target_VV, draft_VV = table(0).float(), table(1).float()
    seeds = [seed_of(0, f"row {row}") for row in range(rows)]
    texts, turn = [[0] for _ in seeds], 0
    while min(map(len, texts)) <= length:
        tree, turn = trees[turn % len(trees)], turn + 1
        noise = Noise(torch.tensor(seeds), torch.tensor([len(text) - 1 for text in texts]))
        tokens_BN = torch.tensor([text[-1:] for text in texts]).repeat(1, tree.size)
        for depth, level in enumerate(tree.levels[1:], start=1):
            above = tree.levels[depth - 1]
            laws_BMV = draft_VV[tokens_BN[:, above.start : above.stop]]
            tokens_BN[:, level.start : level.stop] = draw("race", tree, depth, laws_BMV, noise)
        draft_BPV = draft_VV[tokens_BN[:, : tree.inner]] if tree.inner else torch.empty((rows, 0, 0))
        chosen = select("race", tree, tokens_BN, target_VV[tokens_BN], draft_BPV, noise)
        for row, text in enumerate(texts):
            path = chosen.accepted_BD[row, : int(chosen.count_B[row])]
            text += [*tokens_BN[row, path].tolist(), int(chosen.token_B[row])]
    for seed, text in zip(seeds, texts, strict=True):
        assert text[1 : length + 1] == gumbel_max(target_VV, length, seed)


def test_texts_of_other_seeds_differ() -> None:
    target_VV = table(0)
    assert gumbel_max(target_VV, 40, seed_of(0, "row")) != gumbel_max(target_VV, 40, seed_of(0, "another"))


@pytest.mark.parametrize("rule", ["race", "gls"])
def test_acceptance_by_sampling(rule: str) -> None:
    rows, k = 6000, 2 if rule == "race" else 1
    target_BV = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    draft_BV, tree = target_BV.flip(1), DraftTree.paths(k, 1)
    noise = Noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    laws_BPV = draft_BV[None].expand(rows, -1, -1)
    tokens_BN = torch.cat([torch.zeros((rows, 1), dtype=torch.int64), draw(rule, tree, 1, laws_BPV, noise)], 1)
    chosen = select(rule, tree, tokens_BN, target_BV[None].expand(rows, tree.size, -1), laws_BPV, noise)
    alpha = float(acceptance("race", target_BV, draft_BV, k))
    assert float(chosen.count_B.double().mean()) == pytest.approx(alpha, abs=5 * (alpha * (1 - alpha) / rows) ** 0.5)


def test_lists_of_drafts_keep_their_bound() -> None:
    rows, k = 6000, 3
    target_V = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    draft_V, tree = target_V.flip(0), DraftTree.paths(k, 1)
    noise = Noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    laws_BPV = draft_V.expand(rows, 1, -1)
    tokens_BN = torch.cat([torch.zeros((rows, 1), dtype=torch.int64), draw("gls", tree, 1, laws_BPV, noise)], 1)
    chosen = select("gls", tree, tokens_BN, target_V.expand(rows, tree.size, -1), laws_BPV, noise)
    ratio_JV = torch.maximum(draft_V / draft_V[:, None], target_V / target_V[:, None])
    bound = float((k / (ratio_JV.sum(1) + (k - 1) / target_V)).sum())
    alpha = float(chosen.count_B.double().mean())
    assert bound - 0.03 < alpha < float(acceptance("optimal", target_V[None], draft_V[None], k)) + 0.03


def test_siblings_arrive_in_the_order_of_the_race() -> None:
    noise, tree = Noise(torch.arange(50), torch.zeros(50, dtype=torch.int64)), DraftTree.paths(VOCABULARY, 1)
    law_BV = table(0)[:1].expand(50, -1)
    time_BV = noise.exponential(Role.RACE, 1, VOCABULARY)
    assert torch.equal(draw("race", tree, 1, law_BV[:, None], noise), (time_BV / law_BV).argsort(1))


@pytest.mark.parametrize(
    "tree", [DraftTree.chain(2), DraftTree.paths(2, 1), DraftTree.paths(2, 2)], ids=["L2", "K2", "K2L2"]
)
def test_two_tokens_race_exactly(tree: DraftTree, models, distance, monkeypatch) -> None:
    """With two tokens a race is decided by the ratio of two times, so finitely many ratios stand for all."""
    target, draft = models("random", 2)
    length = tree.depth + 1
    cuts = [
        sorted(
            {
                float(law(text)[0] / law(text)[1])
                for law in (target, draft)
                for text in itertools.product((0, 1), repeat=d)
            }
        )
        for d in range(length)
    ]
    law = torch.zeros((2,) * length, dtype=torch.float64)
    for cells in itertools.product(*(range(len(some) + 1) for some in cuts)):
        ends = [([0.0, *some, torch.inf][cell : cell + 2]) for some, cell in zip(cuts, cells, strict=True)]
        # The ratio of two exponential times is below c with probability c / (1 + c).
        weight = 1.0
        for low, high in ends:
            weight *= (1 - 1 / (1 + high)) - low / (1 + low)
        ratios = [low + 1 if high == torch.inf else (low + high) / 2 for low, high in ends]

        def exponential(self, role, depth, count, ratios=ratios):
            return torch.tensor([[ratios[depth - 1], 1.0]], dtype=torch.float64)

        monkeypatch.setattr(Noise, "exponential", exponential)
        text = one_round(tree, target, draft)
        completion = (
            text_law(lambda rest, text=text: target((*text, *rest)), length - len(text)) if len(text) < length else 1
        )
        law[text] += weight * completion
    assert distance(law, text_law(target, length)) <= 1e-12


def one_round(tree: DraftTree, target, draft) -> tuple[int, ...]:
    noise, texts = Noise(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)), [()]
    for depth, level in enumerate(tree.levels[1:], start=1):
        laws_BMV = torch.stack([draft(texts[node]) for node in tree.levels[depth - 1]])[None]
        drawn = draw("race", tree, depth, laws_BMV, noise)[0].tolist()
        texts += [(*texts[tree.parents[node]], token) for node, token in zip(level, drawn, strict=True)]
    tokens_BN = torch.tensor([[0, *(text[-1] for text in texts[1:])]])
    target_BNV = torch.stack([target(text) for text in texts])[None]
    draft_BPV = torch.stack([draft(text) for text in texts[: tree.inner]])[None]
    chosen = select("race", tree, tokens_BN, target_BNV, draft_BPV, noise)
    return (*texts[int(chosen.accepted_BD.amax()) if int(chosen.count_B) else 0], int(chosen.token_B))


def test_a_race_of_point_masses_has_one_outcome_with_any_noise() -> None:
    tree, tokens_BN = DraftTree.paths(2, 2), torch.tensor([[0, 3, 1, 2, 4], [0, 2, 2, 1, 0]])
    target_BNV = torch.eye(5)[torch.tensor([[3, 2, 0, 1, 1], [2, 4, 1, 3, 0]])]
    seed_B = torch.tensor([1, 2])
    found = [select("race", tree, tokens_BN, target_BNV, None, Noise(seed_B, seed_B, certain=one)) for one in (0, 1)]
    assert found[0].token_B.tolist() == found[1].token_B.tolist() == [1, 4]
    assert found[0].accepted_BD.tolist() == found[1].accepted_BD.tolist()
