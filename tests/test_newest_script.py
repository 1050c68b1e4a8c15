"""``benchmarks/newest.py``: its ceiling is the known optimum where one is known, and its candidates are lossless."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from scripts import load_benchmark

from spectr_select import DraftTree
from spectr_select.exact.acceptance import acceptance
from spectr_select.exact.enumeration import expected_lengths

EXACT = 1e-12


@pytest.fixture(scope="module")
def newest() -> ModuleType:
    return load_benchmark("newest")


@pytest.fixture(autouse=True)
def among_the_rules(newest: ModuleType):
    with newest.candidates():
        yield


def test_the_most_of_one_token_is_the_optimum(newest) -> None:
    targets, drafts = newest.random_models(1, 1)
    most = newest.ceiling("kseq", DraftTree.paths(3, 1), targets, drafts)
    assert most - 1 == pytest.approx(float(acceptance("optimal", targets[0][:, 0], drafts[0][:, 0], 3)), abs=1e-6)
    most = newest.ceiling("rrsw", DraftTree.paths(2, 1), targets, drafts)
    assert most - 1 == pytest.approx(float(acceptance("optimal-swor", targets[0][:, 0], drafts[0][:, 0], 2)), abs=1e-6)


def test_the_most_of_one_path_is_that_of_block(newest) -> None:
    targets, drafts = newest.random_models(1, 2)
    tree = DraftTree.chain(2)
    most = newest.ceiling("block", tree, targets, drafts)
    assert most == pytest.approx(float(expected_lengths("block", tree, targets, drafts)), abs=1e-6)


def test_no_rule_is_above_the_most_of_its_drafts(newest) -> None:
    targets, drafts = newest.random_models(1, 2)
    for rules in (("kseq", "gbv", "otm-block"), ("rrsw", "traversal"), ("greedy", "univer")):
        most = newest.ceiling(rules[0], newest.EXACT_TREE, targets, drafts)
        found = [float(expected_lengths(rule, newest.EXACT_TREE, targets, drafts)) for rule in rules]
        assert max(found) <= most + 1e-6
        assert found[-1] > 0.95 * most


@pytest.mark.parametrize(
    "tree", [DraftTree.chain(0), DraftTree.chain(2), DraftTree.branching((2, 2)), DraftTree((-1, 0, 0, 1, 1, 4))]
)
def test_univer_is_lossless(tree: DraftTree, newest) -> None:
    targets, drafts = newest.random_models(2, tree.depth)
    assert newest.distance("univer", tree, targets, drafts) <= EXACT


@pytest.mark.parametrize("kind", ["equal", "tied", "disjoint", "one-hot target", "one-hot draft"])
def test_univer_is_lossless_on_laws_without_much_in_them(kind: str, newest) -> None:
    targets, drafts = newest.random_models(2, 2)
    left_V, one_V = torch.tensor([1.0, 1, 0, 0]).double(), torch.tensor([0.0, 0, 1, 0]).double()
    ties_V = torch.tensor([1.0, 2, 1, 2]).double()

    def having(tables: list[torch.Tensor], only_V: torch.Tensor) -> list[torch.Tensor]:
        return [table * only_V / (table * only_V).sum(2, keepdim=True) for table in tables]

    if kind in ("equal", "tied"):
        drafts = having(targets[:2], ties_V if kind == "tied" else torch.ones(4).double())
    if kind == "disjoint":
        targets, drafts = having(targets, left_V), having(drafts, 1 - left_V)
    if kind.startswith("one-hot"):
        targets, drafts = (having(targets, one_V), drafts) if "target" in kind else (targets, having(drafts, one_V))
    assert newest.distance("univer", newest.EXACT_TREE, targets, drafts) <= EXACT


def test_univer_without_its_condition_is_found(newest, monkeypatch) -> None:
    def unscaled(target_BV, draft_BV, weight_B1, tokens_BK):
        share_BK, left_BV = right(target_BV, draft_BV, weight_B1, tokens_BK)
        return share_BK * (1 - share_BK[:, :1]), left_BV

    targets, drafts = newest.random_models(2, 2)
    right = newest.CANDIDATES["univer"].select.__globals__["membership"]
    monkeypatch.setitem(newest.CANDIDATES["univer"].select.__globals__, "membership", unscaled)
    assert newest.distance("univer", newest.EXACT_TREE, targets, drafts) > 1e-3


def test_the_public_formulas_are_biased_but_for_one_draft(newest) -> None:
    targets, drafts = newest.random_models(4, 2)
    for rule in ("spectr-gbv", "spectr-gbv-residual"):
        assert newest.distance(rule, newest.ONE_TOKEN, targets[:2], drafts[:1]) > 1e-3
    one_path = newest.distance("spectr-gbv", DraftTree.chain(1), targets[:2], drafts[:1])
    assert one_path <= EXACT  # with one draft of one token they are speculative sampling


def test_the_report_has_every_rule(newest) -> None:
    quoting = load_benchmark("quoting/newest")
    drawings = {"iid": 2.0, "without-replacement": 2.1, "top": 2.05}
    rules = {
        rule: {"drawing": newest.RULES[rule].drawing, "tokens": 1.5, "distance": 0.1, "one_token": 0.05}
        for rule in newest.EXACT_RULES
    }
    rules["otm-block"]["distance"] = 1e-16
    found = quoting.exact({"exact": {"models": 2, "rules": rules, "ceilings": drawings}})
    assert "| `otm-block` | independent | 1.500 | 75.0 % | none |" in found
    assert found.count("biased") == len(rules) - 1
