"""What a request may ask to be drafted from: which plans honour it, and what becomes of its row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from table_pair import table_bundle
from tiny_models import byte_tokenizer

from spectr_runtime import Completion, Decoder, Failure, Outcome, Plan, Request, RequestError, SamplingParams
from spectr_runtime.planning.choice import open_corpus
from spectr_runtime.rows.drafting import DraftChoice, SourceName
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.plan import PlanChoice, check_draft

OpenDecoder = Callable[..., Decoder]
NOTHING = DraftChoice(None)
RACE, KSEQ, LOOKED_UP = Plan("race", 2, 4), Plan("kseq", 2, 4), Plan("single", 1, 4, "lookup")
PAIR = table_bundle(4).manifest
ALONE = table_bundle(4, roles=("target",)).manifest


@pytest.mark.parametrize("choice", ["auto", Plan.plain(), RACE, Plan("race", 1, 4, "texts"), KSEQ, LOOKED_UP], ids=str)
@pytest.mark.parametrize("asked", [None, NOTHING])
def test_every_plan_takes_a_request_that_asks_for_nothing(choice: PlanChoice, asked: DraftChoice | None) -> None:
    check_draft(asked, choice, PAIR)
    check_draft(asked, choice, ALONE)


@pytest.mark.parametrize("choice", ["auto", RACE, Plan.plain()], ids=str)
@pytest.mark.parametrize("source", ["draft", "lookup", "corpus", "texts"])
@pytest.mark.parametrize("length", [None, 1, 200])
def test_a_race_takes_every_source(choice: PlanChoice, source: SourceName, length: int | None) -> None:
    check_draft(DraftChoice(source, length), choice, PAIR)


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        (DraftChoice("draft"), KSEQ),
        (DraftChoice("draft", 4), KSEQ),
        (DraftChoice("lookup", 4), LOOKED_UP),
        (DraftChoice("lookup"), LOOKED_UP),
        (DraftChoice("draft"), Plan.plain()),
    ],
    ids=str,
)
def test_another_rule_takes_what_it_does_anyway(asked: DraftChoice, choice: Plan) -> None:
    check_draft(asked, choice, PAIR)


ADVICE = "Decode with --plan auto, which takes every source, and a bundle with a draft for the source draft."


@pytest.mark.parametrize(
    ("asked", "choice", "words"),
    [
        (
            DraftChoice("lookup"),
            KSEQ,
            "draft has the source lookup; the text of the plan kseq K=2 L=4 depends on what is drafted, so it must be "
            f"false, or draft with the length 4 or none. {ADVICE}",
        ),
        (DraftChoice("draft", 3), KSEQ, "draft has the source draft with the length 3; the text of the plan kseq"),
        (DraftChoice("lookup", 5), LOOKED_UP, "so it must be false, or lookup with the length 4 or none."),
        (DraftChoice("texts"), LOOKED_UP, "draft has the source texts; the text of the plan single K=1 L=4 lookup"),
        (
            DraftChoice("draft"),
            Plan("race", 1, 4, "texts"),
            "draft has the source draft; the plan race K=1 L=4 texts does not run the draft, so it must be one "
            f"of false, lookup, corpus, texts. {ADVICE}",
        ),
    ],
    ids=str,
)
def test_what_a_plan_cannot_honour_is_refused(asked: DraftChoice, choice: Plan, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_draft(asked, choice, PAIR)
    assert words in str(caught.value)
    assert (caught.value.param, caught.value.code) == ("draft", "unsupported_parameter")


@pytest.mark.parametrize("choice", ["auto", Plan("race", 1, 4, "lookup")], ids=str)
def test_a_draft_is_asked_for_in_vain_where_the_bundle_has_none(choice: PlanChoice) -> None:
    with pytest.raises(RequestError, match="draft has the source draft; the bundle has no draft, so it must be one of"):
        check_draft(DraftChoice("draft"), choice, ALONE)
    check_draft(DraftChoice("draft"), Plan.plain(), ALONE)


ASKED: dict[str, DraftChoice | None] = {
    "unset": None,
    "none": NOTHING,
    "draft": DraftChoice("draft", 1),
    "lookup": DraftChoice("lookup"),
    "corpus": DraftChoice("corpus", 2),
    "texts": DraftChoice("texts"),
}
PARAMS = SamplingParams(max_tokens=24, ignore_eos=True, seed=3)


def decoded(decoder: Decoder, asked: dict[str, DraftChoice | None] = ASKED) -> dict[str, Outcome]:
    """Rows of one prompt and seed, and therefore one text."""
    requests = (Request(name, (1, 3, 2), PARAMS, draft=choice) for name, choice in asked.items())
    return {one.id: one for one in decoder.generate(requests)}


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("plan", ["auto", RACE], ids=str)
def test_rows_draft_from_what_they_ask_for_and_keep_their_text(
    open_decoder: OpenDecoder, plan: PlanChoice, batch_size: int
) -> None:
    (alone,) = decoded(open_decoder(Plan.plain()), {"unset": None}).values()
    found = decoded(open_decoder(plan, batch_size=batch_size))
    assert isinstance(alone, Completion)
    for name, one in found.items():
        assert isinstance(one, Completion)
        assert one.token_ids == alone.token_ids
        if name != "unset":
            expected = {"none": set(), "texts": {"lookup", "corpus"}}.get(name, {name})
            assert one.speculation.sources.keys() <= expected, name
        for did in one.speculation.sources.values():
            assert 0 <= did.accepted <= did.proposed
    drafted = found["draft"]
    assert isinstance(drafted, Completion)
    assert drafted.speculation.sources["draft"].proposed == drafted.speculation.sources["draft"].rounds


def test_rows_that_ask_for_the_corpus_have_one_where_the_plan_looks_in_none(open_decoder: OpenDecoder) -> None:
    asked: dict[str, DraftChoice | None] = {str(number): DraftChoice("corpus") for number in range(3)}
    first, *later = decoded(open_decoder(RACE, batch_size=1), asked).values()
    assert isinstance(first, Completion)
    assert first.speculation.sources == {}
    for one in later:
        assert isinstance(one, Completion)
        assert one.speculation.sources["corpus"].accepted > 10, "the same text was written before"


def test_a_request_that_cannot_be_honoured_fails_and_the_others_go_on(open_decoder: OpenDecoder) -> None:
    found = decoded(open_decoder(KSEQ))
    failed = {name for name, one in found.items() if isinstance(one, Failure)}
    assert failed == {"draft", "lookup", "corpus", "texts"}
    for name in failed:
        one = found[name]
        assert isinstance(one, Failure)
        assert (one.error.param, one.error.retryable) == ("draft", False)
    sources = {name: one.speculation.sources.keys() for name, one in found.items() if isinstance(one, Completion)}
    assert sources == {"unset": {"draft"}, "none": set()}


def test_a_file_becomes_the_corpus_by_the_tokens_of_its_texts(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    tokenizer = Tokenizer(tmp_path / "tokenizer", 257)
    (tmp_path / "texts.jsonl").write_text('{"text": "say hello again"}\n""\n"say hello, you"\n')
    corpus = open_corpus(tmp_path / "texts.jsonl", tokenizer)
    found = corpus.find(tokenizer.encode("I say hello"), 2, 4)
    assert found is not None
    assert {tokenizer.decode(path) for path in found.paths} == {" aga", ", yo"}
    assert open_corpus(None, tokenizer).find(tokenizer.encode("I say hello"), 2, 4) is None


def test_tokens_beyond_the_vocabulary_are_no_drafts(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    whole, small = Tokenizer(tmp_path, 257), Tokenizer(tmp_path, 65)
    tokens = whole.tokens("Ab!")
    assert len(tokens) == 3
    assert small.tokens("Ab!") == [token for token in tokens if token < 65] != tokens
    assert whole.tokens("") == []
