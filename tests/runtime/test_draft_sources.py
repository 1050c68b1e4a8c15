"""Drafts that are looked up lose nothing: the law of what the whole decoder writes, and mistakes that it would show."""

# B rows, N tree nodes, V vocabulary.
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from support import chi_square_p_value, target_law

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.drafting.given import GivenDrafts
from spectr_runtime.drafting.source import Drafts
from spectr_runtime.rows.drafting import DraftChoice
from spectr_runtime.speculation import round as rounds
from spectr_select import DraftTree, select

OpenDecoder = Callable[..., Decoder]
TOGETHER = {"batch_size": 250, "tokens_per_call": 16}  # so that a prompt is read in one call
# What the end of the prompt says was said before, and what followed there has the probabilities 0.43, 0.49 and 0.88.
# No four tokens of it come twice, so a corpus is needed to find as many.
PROMPT = (3, 4, 2, 1, 3, 4, 2)
ROWS, SIGNIFICANCE = 6_000, 1e-9
PARAMS = SamplingParams(max_tokens=3, ignore_eos=True)


def requests(rows: int = ROWS, *choices: DraftChoice | None) -> list[Request]:
    """Rows of one prompt that ask for one of the choices in turn."""
    asked = choices or (None,)
    return [Request(f"row {row}", PROMPT, PARAMS, draft=asked[row % len(asked)]) for row in range(rows)]


def decoded(decoder: Decoder, asked: Iterable[Request]) -> dict[str, Completion]:
    return {one.id: one for one in decoder.generate(asked) if isinstance(one, Completion)}


def p_value(written: Iterable[Completion], temperature: float = 1.0) -> float:
    """Return the p-value of the test that the first three tokens of rows follow the target's law."""
    texts = Counter(one.token_ids for one in written)
    counts = torch.zeros(125)
    for (first, second, third), count in texts.items():
        counts[25 * first + 5 * second + third] = count
    return chi_square_p_value(counts, target_law(PROMPT, 3, temperature))


def check_law(written: Iterable[Completion]) -> None:
    written = list(written)
    assert p_value(written) > SIGNIFICANCE
    assert p_value(written, 1.25) < SIGNIFICANCE, "the test must be able to tell a wrong law"


def totals(written: Iterable[Completion]) -> dict[str, tuple[int, int]]:
    """Return how many tokens were proposed and accepted from each source."""
    found: dict[str, tuple[int, int]] = {}
    for one in written:
        for name, stats in one.speculation.sources.items():
            proposed, accepted = found.get(name, (0, 0))
            found[name] = proposed + stats.proposed, accepted + stats.accepted
    return found


@pytest.mark.parametrize(
    ("plan", "names"),
    [
        (Plan("single", 1, 3, "lookup"), ["lookup"]),
        (Plan("block", 1, 3, "lookup"), ["lookup"]),
        (Plan("race", 1, 3, "lookup"), ["lookup"]),
        (Plan("race", 3, 2, "lookup"), ["lookup"]),
        (Plan("race", 2, 2, "corpus"), ["corpus"]),
        (Plan("race", 2, 3, "texts"), ["corpus", "lookup"]),
    ],
    ids=str,
)
def test_the_first_three_tokens_follow_the_target_whatever_is_looked_up(
    open_decoder: OpenDecoder, plan: Plan, names: list[str]
) -> None:
    written = decoded(open_decoder(plan, **TOGETHER), requests()).values()
    check_law(written)
    found = totals(written)
    assert sorted(found) == names
    assert all(proposed >= accepted > 100 for proposed, accepted in found.values())
    assert sum(one.speculation.accepted_at_depth[1] for one in written if one.speculation.accepted) > 400


@pytest.mark.parametrize("plan", [Plan("kseq", 3, 2), Plan("single", 1, 3, "lookup")], ids=str)
def test_rows_that_draft_nothing_are_decoded_plainly_among_others(open_decoder: OpenDecoder, plan: Plan) -> None:
    asked = requests(ROWS, None, DraftChoice(None))
    written = decoded(open_decoder(plan, **TOGETHER), asked)
    drafting, others = ([written[one.id] for one in asked[start::2]] for start in range(2))
    check_law(drafting)
    check_law(others)
    assert sum(one.speculation.accepted for one in drafting) > 400
    assert not any(one.speculation.sources for one in others)
    plain = decoded(open_decoder(Plan.plain(), **TOGETHER), asked[:400])
    assert all(one.token_ids == plain[one.id].token_ids for one in others[:200])
    assert any(one.token_ids != plain[one.id].token_ids for one in drafting[:200])


def test_what_is_looked_up_never_stands_among_drafts_of_a_model_unless_in_a_race(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that asks for it is refused; should one get by, nothing is written rather than a biased text."""
    asked, kseq = requests(4, DraftChoice("lookup")), Plan("kseq", 2, 2)
    assert decoded(open_decoder(kseq), asked) == {}
    monkeypatch.setattr("spectr_runtime.decoder.refusal_of", lambda *_: None)
    with pytest.raises(AssertionError):
        decoded(open_decoder(kseq), asked)
    assert totals(decoded(open_decoder(Plan("race", 2, 2)), asked).values()).keys() == {"lookup"}


# What the tests above must be able to notice.


def test_a_path_that_is_tested_as_a_drawn_one_is_found(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = GivenDrafts.draft

    def uniform(self, rule, tree, rows, noise) -> Drafts:
        drafts = given(self, rule, tree, rows, noise)
        return drafts._replace(law_BPV=torch.full((len(drafts.tokens_BN), tree.inner, 5), 0.2))

    monkeypatch.setattr(GivenDrafts, "draft", uniform)
    for rule in ("single", "block"):
        written = decoded(open_decoder(Plan(rule, 1, 3, "lookup"), **TOGETHER), requests(4_000)).values()
        assert p_value(written) < SIGNIFICANCE


@pytest.mark.parametrize("before", [False, True], ids=["after the draft was seen", "before it was seen"])
def test_a_row_that_gives_up_its_drafts_must_do_so_before_they_are_drawn(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """One that sees its draft and then wants none is biased (DSpark, arXiv 2607.05147, appendix A)."""
    chosen_of = rounds.choose

    def choose(plan, drafts, target_BNV, given, noise):
        chosen = chosen_of(plan, drafts, target_BNV, given, noise)
        tokens_BN, none = drafts.tokens_BN, DraftTree.chain(0)
        alone = select("race", none, tokens_BN[:, :1], target_BNV[:, :1], None, noise)
        gives_up_B = noise.seed_B % 2 == 0 if before else tokens_BN[:, 1] == 1
        return rounds.nothing_in(gives_up_B, chosen, alone.token_B)

    monkeypatch.setattr(rounds, "choose", choose)
    written = decoded(open_decoder(Plan("single", 1, 3), **TOGETHER), requests()).values()
    assert sum(one.speculation.accepted for one in written) > 400
    assert (p_value(written) > SIGNIFICANCE) == before


@pytest.mark.parametrize(
    ("plan", "looks_at", "exact"),
    [(Plan("single", 1, 3), 1, True), (Plan("single", 1, 3), 2, False), (Plan("race", 1, 3), 2, True)],
    ids=["at what it keeps", "at what it drops", "at what a race drops"],
)
def test_a_cut_may_not_look_at_what_it_drops_unless_in_a_race(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, plan: Plan, looks_at: int, exact: bool
) -> None:
    """So the limits of rows, which are known after what was looked up, cut races only."""
    chosen_of = rounds.choose

    def choose(plan, drafts, target_BNV, given, noise):
        chosen = chosen_of(plan, drafts, target_BNV, given, noise)
        token_B = drafts.tokens_BN[:, looks_at]
        limit_B = torch.where((token_B == 0) | (token_B == 2), 0, 3)
        return rounds.at_most(limit_B, chosen, drafts.tokens_BN)

    monkeypatch.setattr(rounds, "choose", choose)
    written = decoded(open_decoder(plan, **TOGETHER), requests(ROWS if exact else 2 * ROWS)).values()
    assert (p_value(written) > SIGNIFICANCE) == exact
