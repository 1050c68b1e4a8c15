"""Lossless selection among the drafts of a smaller model: the part of speculative decoding that is about probabilities.

A law is a probability distribution over the vocabulary. This package works on the laws of a draft model and a target
model, as tensors, and knows nothing of models, engines, prompts or files. One round runs through it as follows:

    draft laws --draw--> tokens of a DraftTree            level by level, siblings drawn as the rule needs them
    tokens, draft laws, target laws --select--> Selection  the accepted path and one more token

The emitted text follows the target's law exactly, whatever the draft. ``draw`` and ``select`` check their arguments and
hand them to a ``Rule``, which takes every random decision from a ``Chance``. There are two of these: ``Noise`` makes
pseudo-random numbers for decoding, and ``Branches`` takes every outcome in turn to compute the exact law of a rule's
output. So one code path both decodes and is enumerated.

The modules, each built on those above it:

    constants   constants as tensors, made once
    tree        DraftTree: which draft continues which
    law         operations on laws, and sampling from them
    philox      the random number generator below Noise
    portion     the rows of a batch, a few at a time
    topology    which tree to draft, given how often drafts are accepted
    division    the division factor of K-SEQ
    selection   Selection: the outcome of a round
    chance      Chance: the random decisions that a rule may ask for
    rule        Rule: how it draws siblings, which trees it takes, how it selects
    drawing     ways to draw siblings, shared by the rules
    recursion   rules that choose one token at a time, applied down a tree
    coins       those among them that accept each candidate with a probability of its own
    rules/      the rules, one file each, with a glossary
    noise       Noise: the Chance for decoding
    round       draw and select, the two halves of a round
    exact/      exact output laws and acceptance probabilities
"""

from __future__ import annotations

from spectr_select.chance import Role
from spectr_select.constants import holding
from spectr_select.division import division_factor
from spectr_select.exact.acceptance import acceptance, acceptance_bounds
from spectr_select.exact.enumeration import output_law, sequence_law
from spectr_select.law import check_laws, sample
from spectr_select.noise import Noise, seed_of, seed_of_prompt
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
    "acceptance_bounds",
    "best_tree",
    "check_laws",
    "division_factor",
    "draw",
    "expected_tokens",
    "holding",
    "output_law",
    "sample",
    "seed_of",
    "seed_of_prompt",
    "select",
    "sequence_law",
    "tokens_bound",
]
