"""Plans: which are allowed and which are refused."""

from __future__ import annotations

import pytest
from table_pair import table_bundle

from spectr_runtime import Plan, UsageError, rule_names
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.rows.drafting import SourceName
from spectr_runtime.speculation.plan import PlanChoice, check_plan
from spectr_select import RULES, DraftTree


def test_a_plan_names_its_tree() -> None:
    assert Plan("kseq", 3, 2).tree == DraftTree.paths(3, 2)
    assert Plan.plain().tree == DraftTree.chain(0)
    assert str(Plan("kseq", 3, 2)) == "kseq K=3 L=2"
    assert str(Plan.plain()) == "plain"
    assert rule_names() == (*RULES, "plain")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", 1, 1), "Rule 'best' is unknown; it must be one of single, "),
        (("kseq", 0, 4), "K=0 drafts of length L=4: both must be at least 1."),
        (("kseq", 4, 0), "K=4 drafts of length L=0: both must be at least 1."),
        (("kseq", 32, 8), "K=32 times L=8 drafts: a round takes fewer than 256."),
        (("single", 2, 4), "Rule single takes one draft path; got K=2. Use --drafts 1 or --rule kseq."),
        (("plain", 1, 4), "Plain decoding has no drafts; got K=1, L=4."),
    ],
)
def test_what_does_not_go_is_refused(arguments: tuple[str, int, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan(*arguments)
    assert str(caught.value).startswith(message)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("choice", ["auto", Plan.plain(), Plan("kseq", 2, 2), Plan("race", 2, 2, "texts")], ids=str)
def test_a_bundle_with_a_draft_takes_every_plan(choice: PlanChoice) -> None:
    check_plan(choice, table_bundle(4).manifest)


def test_without_a_draft_plans_that_need_it_are_refused_and_the_automatic_plan_has_none() -> None:
    manifest = table_bundle(4, roles=("target",)).manifest
    for choice in (Plan.plain(), Plan("race", 2, 4, "texts"), Plan("single", 1, 4, "lookup")):
        assert menu_of(choice, manifest) == (choice,)
    menu = menu_of("auto", manifest)
    assert Plan.plain() in menu
    assert any(plan.drafts for plan in menu)
    assert not any(plan.feeds_draft for plan in menu)
    with pytest.raises(UsageError) as caught:
        check_plan(Plan("kseq", 4, 4), manifest)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (
        "The plan is kseq K=4 L=4, and the bundle has no draft. Use --plan auto or plain, --source lookup, or build a "
        "bundle with a draft: `spectr-export build TARGET --draft DRAFT`."
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("race", 1, 4, "wiki"), "Source 'wiki' is unknown; it must be one of draft, lookup, corpus, texts."),
        (("single", 1, 4, "corpus"), "a row would depend on the rows that were finished before it"),
        (("block", 1, 4, "texts"), "a row would depend on the rows that were finished before it"),
        (("kseq", 2, 4, "lookup"), "a path that is looked up has no law"),
        (("rrs", 1, 4, "lookup"), "a path that is looked up has no law"),
    ],
)
def test_a_source_that_a_rule_does_not_take_is_refused(arguments: tuple[str, int, int, SourceName], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan(*arguments)
    assert words in str(caught.value)
