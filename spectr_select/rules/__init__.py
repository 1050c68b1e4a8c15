"""The selection rules by name."""

from __future__ import annotations

from spectr_select.rule import Rule
from spectr_select.rules.block import BLOCK
from spectr_select.rules.gbv import GBV
from spectr_select.rules.gls import GLS
from spectr_select.rules.greedy import GREEDY
from spectr_select.rules.kseq import KSEQ
from spectr_select.rules.otm import OTM
from spectr_select.rules.race import RACE
from spectr_select.rules.rrs import RRS
from spectr_select.rules.rrsw import RRSW
from spectr_select.rules.single import SINGLE
from spectr_select.rules.traversal import TRAVERSAL

RULES: dict[str, Rule] = {
    rule.name: rule for rule in (SINGLE, KSEQ, RRS, RRSW, GREEDY, RACE, GLS, BLOCK, GBV, TRAVERSAL, OTM)
}


def rule_named(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in RULES:
        raise ValueError(f"Rule {name!r} is unknown; the rules are {', '.join(RULES)}.")
    return RULES[name]
