"""The selection rules by name.

Glossary; d is the draft's law after a node of the tree and t the target's:

    draft        a token drawn from d, a node of the tree
    candidates   the drafts among which the next token is chosen: siblings, or nodes whose paths spell the same text
    accepted     drafts that the rule keeps: a path from the root's child downwards
    residual     the part of t that the drafts do not cover, such as ``(t - d)+``, which stands for ``max(t - d, 0)``
    correction   the token emitted when all candidates were rejected, drawn from the residual; others call it recovered
    bonus        the token emitted when a whole path was accepted, drawn from t

A round emits the accepted drafts and one more token, a correction or a bonus. The rules:

    single      one draft, accepted with probability ``min(1, t / d)`` (Leviathan et al., arXiv 2211.17192; Chen et al.,
                arXiv 2302.01318)
    kseq        independent drafts, tested in turn against the target divided by a factor (SpecTr, arXiv 2310.15141)
    rrs         independent drafts, each tested against the residual of those before it (SpecInfer, arXiv 2305.09781)
    rrsw        as ``rrs``, with distinct drafts (RSD, arXiv 2402.14160; Sequoia, arXiv 2402.12374)
    greedy      the most probable tokens and one that is drawn from the rest (arXiv 2502.18779)
    race        one exponential race that draft and target share (ERSD, arXiv 2504.15475)
    gls         an exponential race for every draft (GLS, arXiv 2506.05632; for one draft, arXiv 2408.07978)
    block       one path, accepted up to the deepest node that passes (block verification, arXiv 2403.10444)
    gbv         block verification of the best of several paths (arXiv 2602.16961)
    traversal   a tree of distinct siblings, tested from its leaves to its root (arXiv 2505.12398)
    otm         independent drafts, one of them proposed by weights close to the optimal transport (the OTM of SpecTr,
                arXiv 2310.15141)
    otm-block   as ``otm``, with the drafts of all depths decided about together (block verification of a tree)
"""

from __future__ import annotations

from spectr_select.rule import Rule
from spectr_select.rules.block import BLOCK
from spectr_select.rules.gbv import GBV
from spectr_select.rules.gls import GLS
from spectr_select.rules.greedy import GREEDY
from spectr_select.rules.kseq import KSEQ
from spectr_select.rules.otm import OTM
from spectr_select.rules.otm_block import OTM_BLOCK
from spectr_select.rules.race import RACE
from spectr_select.rules.rrs import RRS
from spectr_select.rules.rrsw import RRSW
from spectr_select.rules.single import SINGLE
from spectr_select.rules.traversal import TRAVERSAL

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (SINGLE, KSEQ, RRS, RRSW, GREEDY, RACE, GLS, BLOCK, GBV, TRAVERSAL, OTM, OTM_BLOCK)
}


def rule_named(name: str) -> Rule:
    """Return the rule of that name.

    Raises:
        ValueError: No rule has that name.
    """
    if name not in RULES:
        raise ValueError(f"Rule {name!r} is unknown; the rules are {', '.join(RULES)}.")
    return RULES[name]
