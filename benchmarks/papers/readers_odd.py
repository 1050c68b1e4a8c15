"""Drafts that are as wrong as drafts can be: what rules accept of them, and whether the text keeps the target's law."""

# B rows, D tokens of a text, N tree nodes, V vocabulary, X texts.
from __future__ import annotations

from typing import Any

import torch
from scipy import stats
from selection import drawn, noise_of

from spectr_select import RULES, DraftTree, Selection, select

SUPPORT, VOCABULARY = 8, 12  # tokens that the target may write, and all
DRAFTS, LENGTH = 4, 2
WORDS = {
    "target": "the target itself",
    "uniform": "uniform over all tokens",
    "least": "the target's four least probable tokens, uniformly",
    "disjoint": "four tokens that the target never writes, uniformly",
    "point": "one token that the target never writes, always",
}


def target_law() -> torch.Tensor:
    """A Zipf law of the last tokens, float64 [V].

    Where a draft has fewer tokens than distinct siblings are drawn, the rest are tokens of no probability, in a race
    those of the least ids. Here these are such as the target never writes, so that a race accepts none by luck.
    """
    law_V = torch.zeros(VOCABULARY, dtype=torch.float64)
    law_V[-SUPPORT:] = 1 / torch.arange(1, SUPPORT + 1, dtype=torch.float64)
    return law_V / law_V.sum()


def draft_laws() -> dict[str, torch.Tensor]:
    """The drafts by their names, float64 [V]."""
    token_V = torch.arange(VOCABULARY)
    chosen = {
        "uniform": token_V >= 0,
        "least": token_V >= VOCABULARY - 4,
        "disjoint": token_V < VOCABULARY - SUPPORT,
        "point": token_V == 0,
    }
    laws = {name: some_V.double() / some_V.sum() for name, some_V in chosen.items()}
    return {"target": target_law(), **laws}


def measure(rows: int) -> dict[str, Any]:
    """For every rule and draft, what is accepted and how probable such a text is; and a control that is biased."""
    laws, target_V = draft_laws(), target_law()
    lines = [facts(rule, name, target_V, law_V, law_V, rows) for name, law_V in laws.items() for rule in RULES]
    control = facts("kseq", "uniform", target_V, laws["uniform"], target_V, rows)
    return {
        "rounds": rows, "support": SUPPORT, "vocabulary": VOCABULARY, "paths": DRAFTS, "length": LENGTH,
        "words": WORDS, "lines": lines, "control": control,
    }  # fmt: skip


def facts(
    rule: str, name: str, target_V: torch.Tensor, draft_V: torch.Tensor, told_V: torch.Tensor, rows: int
) -> dict[str, Any]:
    """The figures of a rule that is told a draft's law, ``draft_V`` if it is told the truth."""
    tree = DraftTree.chain(LENGTH) if RULES[rule].trees == "chain" else DraftTree.paths(DRAFTS, LENGTH)
    noise = noise_of(rows, 0)
    tokens_BN = drawn(rule, tree, draft_V.float().expand(rows, tree.inner, -1), noise)
    target_BNV, told_BPV = (
        law_V.float().expand(rows, nodes, -1) for law_V, nodes in ((target_V, tree.size), (told_V, tree.inner))
    )
    chosen = select(rule, tree, tokens_BN, target_BNV, told_BPV, noise)
    text_BD = completed(chosen, tokens_BN, target_V)
    count_X = (text_BD @ torch.tensor([VOCABULARY, 1])).bincount(minlength=VOCABULARY**2)
    distance, expected, chance = compared(count_X, torch.outer(target_V, target_V).flatten())
    return {
        "rule": rule, "draft": name,
        "acceptance": round(float((chosen.count_B > 0).double().mean()), 4),
        "tokens_per_round": round(1 + float(chosen.count_B.double().mean()), 4),
        "total_variation": round(distance, 5), "expected_total_variation": round(expected, 5),
        "p_value": float(f"{chance:.3g}"),
    }  # fmt: skip


def completed(chosen: Selection, tokens_BN: torch.Tensor, target_V: torch.Tensor) -> torch.Tensor:
    """The first two tokens of every round; where it emitted only one, the target adds the second. [B, 2]."""
    text_BD = tokens_BN.gather(1, chosen.accepted_BD.clamp(min=0))
    text_BD = torch.where(chosen.accepted_BD >= 0, text_BD, chosen.token_B[:, None])
    generator = torch.Generator().manual_seed(8)
    added_B = torch.multinomial(target_V, len(text_BD), replacement=True, generator=generator)
    text_BD[:, 1] = torch.where(chosen.count_B == 0, added_B, text_BD[:, 1])
    return text_BD


def compared(count_X: torch.Tensor, law_X: torch.Tensor) -> tuple[float, float, float]:
    """Total variation of counts and law, what chance alone makes of it on average, and the p-value of chi-square.

    The p-value is 0 if something was counted that the law excludes.
    """
    total, may_X = int(count_X.sum()), law_X > 0
    distance = float((count_X / total - law_X).abs().sum()) / 2
    expected = float((2 * law_X * (1 - law_X) / (torch.pi * total)).sqrt().sum()) / 2
    if count_X[~may_X].any():
        return distance, expected, 0.0
    return distance, expected, float(stats.chisquare(count_X[may_X], law_X[may_X] * total).pvalue)
