"""The batched float32 path that decodes, by sampling: rows of several temperatures follow the target's law."""

# B rows, N tree nodes, V vocabulary.
from __future__ import annotations

import pytest
import torch
from scipy import stats

from spectr_select import RULES, DraftTree, Noise, Role, draw, sample, seed_of, select

VOCABULARY = 4
TEMPERATURES = (0.5, 1.0, 1.7)
ROWS = 24_000
BIASED = 1e-9


class Chains:
    """Return float32 laws of draft and target that depend on the last token and on the temperature of the row."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)
        self.logits = 1.2 * torch.randn((2, VOCABULARY, VOCABULARY), generator=generator)
        self.temperature_B = torch.tensor(TEMPERATURES).repeat(ROWS // len(TEMPERATURES))

    def target(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        return (self.logits[0][tokens_BN] / self.temperature_B[:, None, None]).softmax(2)

    def draft(self, tokens_BN: torch.Tensor) -> torch.Tensor:
        return (self.logits[1][tokens_BN] / self.temperature_B[:, None, None]).softmax(2)

    def law_of_two(self, temperature: float) -> torch.Tensor:
        law_VV = (self.logits[0].double() / temperature).softmax(1)
        return law_VV[0][:, None] * law_VV


def first_two(rule: str, tree: DraftTree, chains: Chains, judged_by: torch.Tensor | None = None) -> torch.Tensor:
    """Return the first two tokens of a round per row; where the round emitted only one, the target adds the second."""
    noise = Noise(torch.tensor([seed_of(1, str(row)) for row in range(ROWS)]), torch.full((ROWS,), 40))
    tokens_BN = torch.zeros((ROWS, tree.size), dtype=torch.int64)
    for depth, level in enumerate(tree.levels[1:], start=1):
        above = tree.levels[depth - 1]
        laws_BMV = chains.draft(tokens_BN[:, above.start : above.stop])
        tokens_BN[:, level.start : level.stop] = draw(rule, tree, depth, laws_BMV, noise)
    draft_BPV = chains.draft(tokens_BN[:, : tree.inner]) if judged_by is None else judged_by
    chosen = select(rule, tree, tokens_BN, chains.target(tokens_BN), draft_BPV, noise)
    text_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0))
    text_BD = torch.where(chosen.accepted_BD >= 0, text_BD, chosen.token_B[:, None])
    last_B = torch.where(chosen.count_B == 1, chosen.token_B, text_BD[:, 1])
    u_B = Noise(noise.seed_B, noise.position_B + 1000).uniform(Role.EMIT, 0, 1)[:, 0]
    completed_B = sample(chains.target(text_BD[:, :1])[:, 0], u_B)
    return torch.stack([text_BD[:, 0], torch.where(chosen.count_B == 0, completed_B, last_B)], 1)


def chances(text_B2: torch.Tensor, chains: Chains) -> list[float]:
    """Return, for every temperature, the probability that the true law strays as far as the rows do."""
    found = []
    for temperature in TEMPERATURES:
        some_B = (text_B2 @ torch.tensor([VOCABULARY, 1]))[chains.temperature_B == torch.tensor(temperature)]
        counts = some_B.bincount(minlength=VOCABULARY**2)
        found.append(float(stats.chisquare(counts, chains.law_of_two(temperature).flatten() * len(some_B)).pvalue))
    return found


@pytest.mark.parametrize("rule", [rule for rule in RULES if "otm" not in rule])  # sampled over large ones
def test_rows_follow_the_law_of_their_temperature(rule: str) -> None:
    chains = Chains()
    tree = DraftTree.chain(3) if RULES[rule].trees == "chain" else DraftTree.paths(3, 2)
    assert min(chances(first_two(rule, tree, chains), chains)) > BIASED


def test_a_temperature_taken_from_another_row_is_noticed() -> None:
    chains, tree = Chains(), DraftTree.paths(3, 2)
    wrong = chains.logits[1][0].softmax(0).expand(ROWS, tree.inner, -1)
    assert min(chances(first_two("kseq", tree, chains, judged_by=wrong), chains)) < BIASED
