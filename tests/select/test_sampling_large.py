"""The path that decodes, on vocabularies of real size: float32 laws, mixed rows, chi-square on buckets of tokens."""

# B rows, N tree nodes, V vocabulary.
from __future__ import annotations

import pytest
import torch
from scipy import stats

from spectr_select import RULES, DraftTree, Noise, Role, draw, sample, seed_of, select

TEMPERATURES = (0.6, 1.0, 1.6)
BUCKETS = 6
ROWS_AT_ONCE = 12  # the laws of more rows would not fit into the cache
BIASED = 1e-9
# Rules that take several times as long are sampled less often.
ROWS = {
    **{"gls": 180, "gbv": 180, "traversal": 240, "otm-block": 240, "block": 360},
    **{"race": 480, "otm": 480, "greedy": 480, "rrsw": 600},
}
CASES = [(rule, 32_000) for rule in RULES] + [(rule, 128_000) for rule in ("single", "kseq", "rrsw", "race")]


class Pair:
    """Return laws of both models at three temperatures, which do not depend on the text: float32 [T, V]."""

    def __init__(self, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(vocabulary)
        logits = 2.5 * torch.randn(vocabulary, generator=generator)
        temperature_T1 = torch.tensor(TEMPERATURES)[:, None]
        self.target_TV = (logits / temperature_T1).softmax(1)
        self.draft_TV = ((logits + torch.randn(vocabulary, generator=generator)) / temperature_T1).softmax(1)
        # Buckets of equal mass under the draft, in the order of t / d: a bias for or against drafts moves mass between.
        order_V = (self.target_TV[1] / self.draft_TV[1]).argsort()
        place_V = (self.draft_TV[1][order_V].cumsum(0) * BUCKETS).long().clamp(max=BUCKETS - 1)
        self.bucket_V = torch.empty_like(order_V).scatter(0, order_V, place_V)
        self.mass_TG = torch.zeros((3, BUCKETS), dtype=torch.float64).index_add(
            1, self.bucket_V, self.target_TV.double()
        )


def play(rule: str, tree: DraftTree, pair: Pair, rows: range, judged_TV: torch.Tensor) -> torch.Tensor:
    """Return buckets of a round's first two tokens per row; every tenth row is finished, and its laws are NaN."""
    kind_B = torch.tensor(rows) % 3
    noise = Noise(torch.tensor([seed_of(2, str(row)) for row in rows]), torch.tensor(rows) % 50)
    tokens_BN = torch.zeros((len(rows), tree.size), dtype=torch.int64)
    finished_B11 = (torch.tensor(rows) % 10 == 9)[:, None, None]
    drafted_BNV = pair.draft_TV[kind_B][:, None].masked_fill(finished_B11, float("nan"))
    for depth, level in enumerate(tree.levels[1:], start=1):
        laws_BMV = drafted_BNV.expand(-1, len(tree.levels[depth - 1]), -1)
        tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, laws_BMV, noise)
    target_BNV = pair.target_TV[kind_B][:, None].masked_fill(finished_B11, float("nan")).repeat(1, tree.size, 1)
    draft_BPV = judged_TV[kind_B][:, None].masked_fill(finished_B11, float("nan")).repeat(1, tree.inner, 1)
    chosen = select(rule, tree, tokens_BN, target_BNV, draft_BPV, noise)
    text_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0))
    text_BD = torch.where(chosen.accepted_BD >= 0, text_BD, chosen.token_B[:, None])
    u_B = Noise(noise.seed_B, noise.position_B + 1000).uniform(Role.EMIT, 0, 1)[:, 0]
    completed_B = sample(pair.target_TV[kind_B], u_B)
    second_B = torch.where(chosen.count_B == 1, chosen.token_B, text_BD[:, 1])
    second_B = torch.where(chosen.count_B == 0, completed_B, second_B)
    return pair.bucket_V[text_BD[:, 0]] * BUCKETS + pair.bucket_V[second_B]


def chance(rule: str, vocabulary: int, rows: int, judged_by: int = 0) -> float:
    """Return the least probability, over the temperatures, that the true law strays as far as the rows do."""
    pair, tree = Pair(vocabulary), DraftTree.chain(2) if RULES[rule].trees == "chain" else DraftTree.paths(3, 2)
    judged_TV = pair.draft_TV.roll(judged_by, 0)
    parts = (range(first, first + ROWS_AT_ONCE) for first in range(0, rows, ROWS_AT_ONCE))
    cell_B = torch.cat([play(rule, tree, pair, part, judged_TV) for part in parts])
    row_B, found = torch.arange(rows), []
    for kind in range(3):
        some_B = cell_B[(row_B % 3 == kind) & (row_B % 10 != 9)]
        mass_G = pair.mass_TG[kind] / pair.mass_TG[kind].sum()
        for place_B in (some_B // BUCKETS, some_B % BUCKETS):
            counts = place_B.bincount(minlength=BUCKETS)
            found.append(float(stats.chisquare(counts, mass_G * len(some_B)).pvalue))
    return min(found)


@pytest.mark.parametrize(("rule", "vocabulary"), CASES)
def test_tokens_fall_into_buckets_as_the_target_says(rule: str, vocabulary: int) -> None:
    assert chance(rule, vocabulary, ROWS.get(rule, 900) if vocabulary == 32_000 else 120) > BIASED


def test_a_draft_judged_by_another_temperature_is_noticed() -> None:
    assert chance("kseq", 32_000, 900, judged_by=1) < BIASED
