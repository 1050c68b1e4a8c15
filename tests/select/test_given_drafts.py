"""Drafts without a law: tokens that were certain before any number was drawn, in a chain and in races."""

# B rows, N tree nodes, V vocabulary.
from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
import torch

from spectr_select import RULES, DraftTree, Noise, output_law, seed_of, select, sequence_law
from spectr_select.chance import Chance, Role
from spectr_select.coins import ratio
from spectr_select.drawing import draw_iid
from spectr_select.exact.branches import every_branch
from spectr_select.exact.enumeration import text_law
from spectr_select.law import without
from spectr_select.recursion import Step, TokenRule, bonus_by_pick
from spectr_select.rule import Round, Rule

TextLaw = Callable[[tuple[int, ...]], torch.Tensor]
EXACT, LENGTH = 1e-12, 60
READERS = [name for name, rule in RULES.items() if not rule.invariant]  # of the drafts' laws
ENUMERABLE = [name for name in READERS if name != "gls"]

pytestmark = pytest.mark.usefixtures("proposed_once")


def certain(path: tuple[int, ...], vocabulary: int) -> TextLaw:
    """A draft that proposes one path and nothing else."""
    return lambda text: torch.eye(vocabulary, dtype=torch.float64)[path[len(text)]]


def noise_of(rows: int) -> Noise:
    return Noise(torch.tensor([seed_of(3, str(row)) for row in range(rows)]), torch.arange(rows))


def laws_of(rows: int, nodes: int, vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((rows, nodes, vocabulary), generator=torch.Generator().manual_seed(seed)).softmax(2)


@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("rule", ["single", "block"])
def test_whatever_path_is_given_the_text_follows_the_target(rule, length, kind, models, distance) -> None:
    """Every path is given once: so may be one that the target can never write, and one of pads."""
    target, _ = models(kind, 3)
    law = text_law(target, length + 1)
    for path in itertools.product(range(3), repeat=length):
        assert distance(sequence_law(rule, DraftTree.chain(length), target, certain(path, 3)), law) <= EXACT


@pytest.mark.parametrize("rule", ENUMERABLE)
def test_every_rule_takes_a_path_that_is_given(rule, models, distance) -> None:
    for kind, path in itertools.product(("random", "mixed"), ((0, 1), (2, 2), (1, 0))):
        target, _ = models(kind, 3, seed=4)
        assert distance(sequence_law(rule, DraftTree.chain(2), target, certain(path, 3)), text_law(target, 3)) <= EXACT


@pytest.mark.parametrize("rule", READERS)
@pytest.mark.parametrize("length", [0, 1, 4])
def test_no_laws_stand_for_point_masses(rule, length) -> None:
    tree, rows, vocabulary = DraftTree.chain(length), 200, 5
    tokens_BN = torch.randint(vocabulary, (rows, tree.size), generator=torch.Generator().manual_seed(1))
    target_BNV, certain_BPV = laws_of(rows, tree.size, vocabulary), torch.eye(vocabulary)[tokens_BN[:, 1:]]
    without_laws = select(rule, tree, tokens_BN, target_BNV, None, noise_of(rows))
    with_laws = select(rule, tree, tokens_BN, target_BNV, certain_BPV, noise_of(rows))
    for name in ("accepted_BD", "count_B", "token_B"):
        assert torch.equal(getattr(without_laws, name), getattr(with_laws, name))
    assert (without_laws.count_B > 0).any() == (length > 0)


@pytest.mark.parametrize("tree", [DraftTree.paths(2, 1), DraftTree.branching((1, 2))], ids=["paths", "a late fork"])
@pytest.mark.parametrize("rule", READERS)
def test_siblings_without_laws_are_refused(rule, tree) -> None:
    tokens_BN, target_BNV = torch.zeros((2, tree.size), dtype=torch.int64), laws_of(2, tree.size, 5)
    with pytest.raises(ValueError, match="takes") as caught:
        select(rule, tree, tokens_BN, target_BNV, None, noise_of(2))
    if RULES[rule].trees == "any":
        assert "Use DraftTree.chain, or the rule 'race'." in str(caught.value)


def test_only_a_race_is_drafter_invariant() -> None:
    assert [name for name, rule in RULES.items() if rule.invariant] == ["race"]


def race(
    trees: list[DraftTree], drafted: Callable[[DraftTree, list[int]], list[int]], length: int = LENGTH
) -> tuple[list[int], int]:
    """Return the text of one row over a table of laws, and how many drafts were accepted."""
    target_VV, text, accepted = laws_of(6, 6, 6)[0], [0], 0
    for tree in itertools.cycle(trees):
        noise = Noise(torch.tensor([seed_of(0, "row")]), torch.tensor([len(text) - 1]))
        tokens_BN = torch.tensor([[text[-1], *drafted(tree, text)]])
        chosen = select("race", tree, tokens_BN, target_VV[tokens_BN], None, noise)
        path = chosen.accepted_BD[0, : int(chosen.count_B)]
        text += [*tokens_BN[0, path].tolist(), int(chosen.token_B)]
        accepted += int(chosen.count_B)
        if len(text) >= length:
            return text[:length], accepted
    raise AssertionError


def test_a_race_writes_the_plain_text_whatever_it_is_given() -> None:
    """Trees of every form, filled with noise, with pads, with what is to come, and with drafts that look at it."""
    plain, none = race([DraftTree.chain(0)], lambda tree, text: [], LENGTH + 9)
    assert none == 0
    shuffler = random.Random(1)
    trees = [DraftTree.chain(3), DraftTree.paths(3, 2), DraftTree.branching((2, 2)), DraftTree((-1, 0, 0, 0, 1, 1, 3))]

    def come(text: list[int], depth: int, further: int = 0) -> int:
        return (plain[len(text) + depth - 1] + further) % 6

    fillings = [
        lambda tree, text: [shuffler.randrange(6) for _ in tree.depths[1:]],
        lambda tree, text: [text[-1]] * (tree.size - 1),
        lambda tree, text: [come(text, depth) for depth in tree.depths[1:]],
        lambda tree, text: [come(text, depth, shuffler.randrange(2)) for depth in tree.depths[1:]],
        lambda tree, text: [come(text, depth, 1) for depth in tree.depths[1:]],
    ]
    accepted = []
    for filling in fillings:
        written, count = race(trees, filling)
        assert written == plain[:LENGTH]
        accepted.append(count)
    assert accepted[2] > 40, "what is to come is accepted"
    assert accepted[0] > 0
    assert accepted[1] > 0
    assert accepted[4] == 0, "what never comes is not"


# What the tests above must be able to notice.


def lowered(step: Step, chance: Chance) -> torch.Tensor:
    """Accepts a certain draft as it should, and leaves it in what a correction is drawn from."""
    token_B1 = step.tokens_BK[:, :1]
    tested_B = chance.first(step.first, ratio(step.target_BV.gather(1, token_B1), torch.ones_like(token_B1).double()))
    return torch.where(tested_B == 0, token_B1[:, 0], chance.pick(Role.EMIT, 0, step.target_BV))


def flawless(step: Step, chance: Chance) -> torch.Tensor:
    """The same with a correction that is never the draft."""
    token_B1 = step.tokens_BK[:, :1]
    tested_B = chance.first(step.first, ratio(step.target_BV.gather(1, token_B1), torch.ones_like(token_B1).double()))
    return torch.where(tested_B == 0, token_B1[:, 0], chance.pick(Role.EMIT, 0, without(step.target_BV, token_B1)))


@pytest.mark.parametrize(("emit", "bias"), [(lowered, 0.24), (flawless, 0.0)], ids=["with it", "without it"])
def test_a_correction_that_may_be_the_refused_draft_is_found(emit, bias, monkeypatch, distance) -> None:
    """Of the target's law t, token 0 comes with t + (1 - t) t instead of t."""
    monkeypatch.setitem(RULES, "broken", Rule("broken", "iid", draw_iid, TokenRule(emit, bonus_by_pick).select))
    target_BV = torch.tensor([[0.4, 0.6, 0.0]], dtype=torch.float64)
    law_BV = output_law("broken", target_BV, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), 1)
    assert distance(law_BV, target_BV) == pytest.approx(bias, abs=1e-12)


def selected_law(rule: str, target_V: torch.Tensor, token: int, draft_V: torch.Tensor) -> torch.Tensor:
    """The law of the first token where a certain draft is tested as if it were drawn from a law."""
    tree, tokens_BN = DraftTree.chain(1), torch.tensor([[0, token]])
    drawn = Round(tree, tokens_BN, target_V.expand(1, 2, -1), draft_V.expand(1, 1, -1))

    def of(chance) -> torch.Tensor:
        row_R = chance.row_R
        some = Round(tree, drawn.tokens_BN[row_R], drawn.target_BNV[row_R], drawn.draft_BPV[row_R])
        return RULES[rule].select(some, chance)

    chosen, branches = every_branch(1, of)
    first_R = torch.where(chosen.count_B > 0, token, chosen.token_B)
    return torch.zeros(len(target_V), dtype=torch.float64).index_add(0, first_R, branches.weight_R)


@pytest.mark.parametrize("rule", ["single", "block"])
def test_a_certain_draft_that_is_tested_as_a_drawn_one_is_found(rule, distance) -> None:
    """So a path that was looked up must never stand in a tree whose laws are those of a draft model."""
    target_V, draft_V = (torch.tensor(law, dtype=torch.float64) for law in ([0.2, 0.3, 0.5], [0.4, 0.3, 0.3]))
    assert distance(selected_law(rule, target_V, 0, torch.eye(3, dtype=torch.float64)[0]), target_V) <= EXACT
    # Token 0 is accepted with 0.2 / 0.4, which is right for a draft that comes with 0.4, and this one always comes.
    law_V = selected_law(rule, target_V, 0, draft_V)
    torch.testing.assert_close(law_V, torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64))
    assert distance(law_V, target_V) == pytest.approx(0.3)


def test_drawn_drafts_that_are_tested_as_certain_ones_are_exact(laws, distance) -> None:
    """The other way round nothing is lost but acceptance: given the draft, the text follows the target in any case."""
    target_BV, draft_BV = laws("random", 1, 3)
    law_V = sum(
        draft * selected_law("single", target_BV[0], token, torch.eye(3, dtype=torch.float64)[token])
        for token, draft in enumerate(draft_BV[0])
    )
    assert distance(law_V, target_BV[0]) <= EXACT
