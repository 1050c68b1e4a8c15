"""Lossless multi-draft selection: draft trees, selection rules, counter-based noise, exact acceptance.

It knows laws over a vocabulary and nothing of models, engines, prompts or files.
"""

from __future__ import annotations

from spectr_select.chance import Role
from spectr_select.division import division_factor
from spectr_select.exact.acceptance import acceptance
from spectr_select.exact.enumeration import output_law, sequence_law
from spectr_select.law import check_laws, sample
from spectr_select.noise import Noise, seed_of
from spectr_select.round import draw, select
from spectr_select.rule import Rule
from spectr_select.rules import RULES
from spectr_select.selection import Selection
from spectr_select.topology import best_tree, expected_tokens, tokens_bound
from spectr_select.tree import DraftTree

__all__ = [
    "RULES",
    "DraftTree",
    "Noise",
    "Role",
    "Rule",
    "Selection",
    "acceptance",
    "best_tree",
    "check_laws",
    "division_factor",
    "draw",
    "expected_tokens",
    "output_law",
    "sample",
    "seed_of",
    "select",
    "sequence_law",
    "tokens_bound",
]
