"""What is looked up for rows: where, how much of it is expected to be accepted, and what becomes of it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import cast

import pytest

from spectr_runtime import Plan, Request
from spectr_runtime.drafting.corpus import Corpus
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.drafting.rates import expected
from spectr_runtime.drafting.texts import Texts
from spectr_runtime.rows.drafting import DraftChoice, Drafted, SourceName, SourceStats
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.offers import drafted_of, gives, limit_of, nodes_of

TOKENIZER = cast(Tokenizer, SimpleNamespace(completion=lambda prompt, ids: ""))


def row_of(*tokens: int, draft: DraftChoice | None = None, limit: int = 10_000) -> Row:
    return Row(Request("row", tokens, draft=draft), tokens, 0, frozenset(), limit, TOKENIZER)


def texts_of(source: SourceName, *corpus: list[int], paths: int = 2, length: int = 4) -> Texts:
    kept = Corpus(1000)
    for text in corpus:
        kept.add(text)
    return Texts(source, kept, paths, length)


def found_for(texts: Texts, row: Row) -> Proposal:
    (found,) = texts.propose([row])
    assert found is not None
    return found


OWN = (1, 2, 3, 4, 8, 6, 1, 2, 3, 4)  # its end was followed by 8, 6, ...
OTHER = [7, 1, 2, 3, 4, 9, 9]


def test_the_longer_match_wins_and_the_own_text_where_both_are_as_long() -> None:
    texts = texts_of("texts", OTHER)
    equal = found_for(texts, row_of(*OWN))
    assert (equal.source, equal.matched, equal.paths) == ("lookup", 4, ((8, 6, 1, 2),))
    longer = found_for(texts, row_of(3, 4, 8, 7, 1, 2, 3, 4))
    assert (longer.source, longer.matched, longer.paths) == ("corpus", 5, ((9, 9),))
    assert texts.propose([row_of(1, 2), None]) == [None, None]
    assert found_for(texts_of("lookup", OTHER), row_of(3, 4, 8, 7, 1, 2, 3, 4)).matched == 2
    assert texts_of("draft", OTHER).propose([row_of(*OWN)]) == [None], "unless its request asks for it"


@pytest.mark.parametrize("source", ["texts", "lookup", "draft"])
def test_a_request_says_where_to_look_whatever_the_plan_says(source: SourceName) -> None:
    def found(choice: DraftChoice, *tokens: int) -> Proposal:
        return found_for(texts_of(source, OTHER), row_of(*(tokens or OWN), draft=choice))

    assert found(DraftChoice(None)) == Proposal(None)
    assert found(DraftChoice("draft")) == Proposal("draft", forced=True)
    corpus = found(DraftChoice("corpus"))
    assert (corpus.source, corpus.paths, corpus.forced) == ("corpus", ((9, 9),), True)
    assert found(DraftChoice("lookup", 2)).paths == ((8, 6),)
    assert found(DraftChoice("texts", 1)).source == "lookup"
    assert found(DraftChoice("corpus"), 1, 2) == Proposal(None), "it drafts from nothing else"


def test_what_was_refused_promises_less_first_of_all_in_the_same_row() -> None:
    texts, refused, other = texts_of("lookup"), row_of(*OWN), row_of(*OWN)
    before = found_for(texts, refused)
    for _ in range(10):
        texts.observe(refused, before, 4, 0)
    here, there = found_for(texts, refused), found_for(texts, other)
    short = found_for(texts, row_of(3, 4, 8, 6, 7, 3, 4))
    assert short.matched == 2
    assert here.promise[0] < there.promise[0] < before.promise[0]
    assert short.promise[0] == before.promise[0], "matches of another length are judged by themselves"
    for _ in range(40):
        texts.observe(other, before, 4, 4)
    again = found_for(texts, other)
    assert again.promise[0] > before.promise[0]
    assert again.promise[-1] > 3.5
    assert found_for(texts, refused).promise[0] < again.promise[0]


def test_rows_that_are_gone_are_forgotten_and_come_back_as_they_were() -> None:
    texts, row, other = texts_of("lookup"), row_of(*OWN), row_of(*OWN)
    before = found_for(texts, row)
    texts.propose([other, None])
    assert [kept for kept, _ in texts._indices.values()] == [other]
    assert found_for(texts, row) == before
    row.tokens += [8, 6]
    assert found_for(texts, row).paths == ((1, 2, 3, 4),), "what was written meanwhile is looked in too"


@pytest.mark.parametrize(("source", "grows"), [("texts", True), ("corpus", True), ("lookup", False), ("draft", False)])
def test_finished_rows_go_to_a_corpus_that_is_looked_in(source: SourceName, grows: bool) -> None:
    texts, ended = texts_of(source), row_of(*[5] * 100, 1, 2, 3, 4)
    ended.tokens += [9, 9]
    texts.add(ended)
    found = found_for(texts, row_of(1, 2, 3, 4, draft=DraftChoice("corpus")))
    assert found.paths == (((9, 9),) if grows else ())
    assert len(texts._corpus) == (32 + 2 + 1) * grows, "with the end of its prompt"


def test_what_is_expected_of_a_path_is_the_mean_over_every_outcome() -> None:
    agreeing, shares = (0.75, 0.5, 0.5, 0.25), (0.6, 0.9)
    chances = [0.6 * 0.75, 0.9 * 0.5 / 0.75, 0.9, 0.9 * 0.5]  # that a token passes where all before it did
    for length in range(1, 5):
        mean = 0.0
        for passed in itertools.product((True, False), repeat=length):
            weight = 1.0
            for one, chance in zip(passed, chances, strict=False):
                weight *= chance if one else 1 - chance
            mean += weight * next((place for place, one in enumerate(passed) if not one), length)
        assert expected(agreeing, shares, 1)[length - 1] == pytest.approx(mean)


def test_further_paths_promise_more_only_where_texts_went_on_in_several_ways() -> None:
    def promised(agreeing: tuple[float, ...]) -> list[float]:
        return [expected(agreeing, (0.6, 0.9), paths)[-1] for paths in (1, 2, 4)]

    assert promised((0.5, 0.5)) == sorted(set(promised((0.5, 0.5))))
    assert len(set(promised((1.0, 0.5)))) == 1
    assert expected((0.5,), (1.0, 1.0), 1000)[0] == pytest.approx(1, abs=1e-3)


def test_a_proposal_promises_what_a_plan_can_take_of_it() -> None:
    one = Proposal("lookup", ((1, 2, 3), (4,)), 2, (0.5, 0.9, 1.2), (0.7, 1.1, 1.4))
    assert [one.promised(1, length) for length in (1, 3, 8)] == [0.5, 1.2, 1.2]
    assert one.promised(2, 2) == 1.1
    assert (one.depth, one.cut(1, 2), one.cut(3, 2)) == (3, ((1, 2),), ((1, 2), (4,)))
    assert (Proposal(None).promised(1, 4), Proposal(None).depth) == (0.0, 0)


FOUND = Proposal("lookup", ((1, 2, 3), (4,)), 2)
WHOLE, SHORT = row_of(1), row_of(1, draft=DraftChoice("draft", 1))


@pytest.mark.parametrize(
    ("plan", "row", "offer", "limit", "source"),
    [
        (Plan("race", 2, 2, "texts"), WHOLE, FOUND, 2, "lookup"),
        (Plan("race", 2, 8, "texts"), WHOLE, FOUND, 3, "lookup"),
        (Plan("race", 2, 8, "texts"), WHOLE, None, 0, None),
        (Plan("race", 2, 8), WHOLE, FOUND, 3, "lookup"),
        (Plan("race", 2, 8), WHOLE, None, 8, "draft"),
        (Plan("race", 2, 8), WHOLE, Proposal(None), 0, None),
        (Plan("race", 2, 8), SHORT, Proposal("draft", forced=True), 1, "draft"),
        (Plan("race", 2, 8), SHORT, None, 8, "draft"),
        (Plan("race", 2, 8, "texts"), SHORT, Proposal("draft", forced=True), 0, None),
        (Plan("single", 1, 8, "lookup"), WHOLE, FOUND, 8, "lookup"),
        (Plan("single", 1, 8, "lookup"), WHOLE, None, 0, None),
        (Plan("kseq", 2, 8), WHOLE, None, 8, "draft"),
        (Plan("kseq", 2, 8), WHOLE, Proposal(None), 0, None),
        (Plan.plain(), WHOLE, FOUND, 0, None),
    ],
)
def test_a_row_may_accept_what_it_drafts(
    plan: Plan, row: Row, offer: Proposal | None, limit: int, source: SourceName | None
) -> None:
    proposed = FOUND.depth if offer == FOUND and not plan.races else limit
    assert drafted_of(plan, row, offer, 0) == Drafted(source, proposed, 0)
    if plan.drafts:
        assert limit_of(plan, row, offer) == limit
        assert limit_of(plan, None, offer) == 0, "in a free row"


def test_paths_stand_in_the_tree_level_by_level_and_over_again_where_there_are_few() -> None:
    plan, offers = Plan("race", 3, 2, "texts"), [FOUND, Proposal(None), None]
    assert gives(plan, offers)
    assert [nodes_of(plan, offer) for offer in offers] == [[-1, 1, 4, 1, 2, -1, 2], [-1] * 7, [-1] * 7]
    batch = [WHOLE, WHOLE, None]
    assert [limit_of(plan, row, offer) for row, offer in zip(batch, offers, strict=True)] == [2, 0, 0]
    tree = plan.tree
    assert [tree.path(node) for node in (4, 5, 6)] == [(1, 4), (2, 5), (3, 6)], "nodes 1 and 4 are the first path"


def test_nothing_is_given_where_all_rows_draft_from_the_model() -> None:
    plan = Plan("race", 2, 2)
    assert not gives(plan, [None, None])
    assert not gives(plan, [])
    assert not gives(Plan.plain(), [FOUND])
    assert gives(plan, [None, FOUND])
    assert [nodes_of(plan, offer) for offer in (None, FOUND)] == [[-1] * 5, [-1, 1, 4, 2, -1]]
    assert [limit_of(plan, WHOLE, offer) for offer in (None, FOUND)] == [2, 2]


def test_a_row_counts_by_source_what_it_drafted() -> None:
    row = row_of(1, limit=9)
    rounds = [
        ((1, 2, 3), Drafted("lookup", 4, 2)),
        ((1,), Drafted("corpus", 2, 0)),
        ((1,), Drafted(None, 0, 0)),
        ((1, 2), Drafted("lookup", 1, 1)),
        ((1,), Drafted("draft", 2, 0, lacking=2)),
    ]
    assert [row.extend(tokens, drafted) for tokens, drafted in rounds] == [False] * 4 + [True]
    stats = row.completion().speculation
    assert stats.sources == {
        "lookup": SourceStats(2, 5, 3),
        "corpus": SourceStats(1, 2, 0),
        "draft": SourceStats(1, 2, 0),
    }
    assert (stats.rounds, stats.accepted_at_depth, stats.accepted) == (5, (2, 1, 0, 0), 3)
