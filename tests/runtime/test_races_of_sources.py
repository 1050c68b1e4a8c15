"""A race writes the plain text token for token whatever is looked up for it, and `single` one text for every row."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from growing import GrowingEngine
from replayed import TapeRecorder, recorder
from support import TableEngine

from spectr_runtime import Completion, Decoder, EngineError, Plan, Request, SamplingParams
from spectr_runtime.bundle import Role
from spectr_runtime.contract import Call
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.planning.choice import Chooser
from spectr_runtime.planning.planner import RACES, TEXT_RACES
from spectr_runtime.rows.drafting import SOURCES, DraftChoice
from spectr_runtime.speculation.plan import refusal_of
from spectr_runtime.speculation.timing import Spent

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
CHOICES = (
    None,
    None,
    DraftChoice(None),
    *(DraftChoice(name, length) for name in SOURCES for length in (1, 2, 7, None)),
)
PARAMS = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.6, "repetition_penalty": 1.3, "presence_penalty": 0.5},
    {"logprobs": 2, "frequency_penalty": 0.4},
    {"stop_token_ids": (4,), "min_tokens": 6},
    {"stop": ("cb", "aa")},
    {"top_k": 3, "top_p": 0.9, "ignore_eos": False, "min_tokens": 9},
)


def mixed_requests(count: int = 57) -> list[Request]:
    """Prompts that repeat themselves, some as long as a text can be, with mixed sampling and every choice of drafts."""
    shuffler, made = random.Random(3), list[Request]()
    for row in range(count):
        period = [shuffler.randrange(1, 5) for _ in range(1 + row % 5)]
        size = 40 + row % 8 if row % 9 == 8 else 1 + row % 17
        params = SamplingParams(**{"max_tokens": 12 + 3 * (row % 7), "ignore_eos": True} | PARAMS[row % len(PARAMS)])
        made.append(Request(f"row {row}", tuple(period * 48)[:size], params, draft=CHOICES[row % len(CHOICES)]))
    return made


REQUESTS = mixed_requests()


class Fickle:
    """Takes another plan every round, and what was looked up for a row now and then."""

    def __init__(self, menu: Sequence[Plan]) -> None:
        self._menu = menu
        self._shuffler = random.Random(len(menu))

    def choose(self, rows: int, proposals: Sequence[Proposal | None] = (), lag: object = None) -> Plan:
        return self._shuffler.choice(self._menu)

    def put_off(self) -> None: ...

    def prefers(self, plan: Plan, proposal: Proposal) -> bool:
        return proposal.forced or self._shuffler.random() < 0.5

    def plain_seconds(self, rows: int) -> None:
        return None

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent) -> None:
        pass


class SmallEngine(TableEngine):
    """A table engine with memory for three rows, once it has run a while."""

    def forward(self, call: Call) -> torch.Tensor:
        if len(call.input_ids_BT) > 3 and len(self.calls) > 30:
            raise EngineError("PyTorch failed in a call: CUDA out of memory. Tried to allocate 20.00 MiB.")
        return super().forward(call)


def decoded(decoder: Decoder, requests: Sequence[Request] = REQUESTS) -> dict[str, Completion]:
    """Decode those of the requests that the plan does not refuse."""
    taken = [one for one in requests if refusal_of(one, decoder._plan, decoder._manifest) is None]
    found = {one.id: one for one in decoder.generate(taken) if isinstance(one, Completion)}
    assert found.keys() == {one.id for one in taken}
    return found


def texts(written: dict[str, Completion]) -> dict[str, tuple[object, ...]]:
    return {
        name: (one.token_ids, one.text, one.finish_reason, one.usage, one.logprobs) for name, one in written.items()
    }


def check_texts(written: dict[str, Completion], expected: dict[str, tuple[object, ...]]) -> None:
    assert len(written) > len(REQUESTS) / 2
    assert texts(written) == {name: expected[name] for name in written}


def accepted(written: dict[str, Completion]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in written.values():
        for name, stats in one.speculation.sources.items():
            found[name] = found.get(name, 0) + stats.accepted
    return found


def shrink(decoder: Decoder) -> None:
    for engine in filter(None, (decoder._loop.pair.draft, decoder._loop.pair.target)):
        engine.__class__ = SmallEngine


@pytest.mark.parametrize("roles", [("target", "draft"), ("target",)], ids=["with a draft", "without a draft"])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_sources_that_change_every_round_leave_the_plain_text(
    open_decoder: OpenDecoder, roles: tuple[Role, ...], batch_size: int
) -> None:
    expected = texts(decoded(open_decoder(Plan.plain())))
    decoder = open_decoder("auto", batch_size=batch_size, roles=roles)
    menu = [plan for plan in (*RACES, *TEXT_RACES) if "draft" in roles or not plan.feeds_draft]
    decoder._loop._chooser.planner = Fickle(menu)
    written = decoded(decoder)
    check_texts(written, expected)
    assert len(decoder.rounds) >= len(menu) - 3
    sources = {"lookup", "corpus", "draft"} if "draft" in roles else {"lookup", "corpus"}
    assert accepted(written).keys() == sources
    assert min(accepted(written).values()) > 10
    check_texts(decoded(decoder), expected)  # with a corpus of these very rows


@pytest.mark.parametrize("plan", ["auto", *(Plan("race", 2, 4, name) for name in SOURCES), TEXT_RACES[3]], ids=str)
def test_a_race_writes_the_plain_text_from_every_source(open_decoder: OpenDecoder, plan: Plan) -> None:
    decoder = open_decoder(plan, batch_size=5)
    written = decoded(decoder)
    check_texts(written, texts(decoded(open_decoder(Plan.plain()))))
    for request in REQUESTS:
        if request.id not in written:
            assert request.draft is not None
            assert request.draft.source == "draft", "which the plan does not run"
            continue
        sources, choice = written[request.id].speculation.sources, request.draft
        if choice is None:
            assert plan == "auto" or sources.keys() <= (
                {"lookup", "corpus"} if plan.source == "texts" else {plan.source}
            )
        else:
            assert sources.keys() <= ({"lookup", "corpus"} if choice.source == "texts" else {choice.source})
            assert all(one.proposed <= (choice.length or 16) * one.rounds for one in sources.values())
    assert sum(accepted(written).values()) > 20


def test_a_batch_that_is_halved_in_the_middle_goes_on_with_its_texts(open_decoder: OpenDecoder) -> None:
    expected = texts(decoded(open_decoder(Plan.plain())))
    for plan in ("auto", Plan("race", 2, 4, "texts")):
        decoder = open_decoder(plan, batch_size=8)
        if plan == "auto":
            decoder._loop._chooser.planner = Fickle((*RACES, *TEXT_RACES))
        shrink(decoder)
        check_texts(decoded(decoder), expected)
        assert decoder.batch_size == 2


@pytest.mark.parametrize("roles", [("target", "draft"), ("target",)], ids=["with a draft", "without a draft"])
def test_rounds_that_are_issued_ahead_leave_the_plain_text(
    open_decoder: OpenDecoder, recorder: TapeRecorder, roles: tuple[Role, ...]
) -> None:
    expected = texts(decoded(open_decoder(Plan.plain(), replays=False)))
    menu = [plan for plan in (*RACES, *TEXT_RACES) if "draft" in roles or not plan.feeds_draft]
    for plan in ("auto", Plan("race", 2, 4, "texts")):
        decoder = open_decoder(plan, batch_size=5, roles=roles)
        if plan == "auto":
            decoder._loop._chooser.planner = Fickle(menu)
            shrink(decoder)
        check_texts(decoded(decoder), expected)
        assert decoder.batch_size == (2 if plan == "auto" else 5)
    assert recorder.replayed > 3


class Turning(Fickle):
    """Lets the draft fall behind, and asks for it again."""

    def choose(self, rows: int, proposals: Sequence[Proposal | None] = (), lag: object = None) -> Plan:
        self._menu = [*self._menu[1:], self._menu[0]]
        return self._menu[0]


def test_a_draft_that_is_behind_a_long_text_reads_it_beside_short_ones(
    open_decoder: OpenDecoder, recorder: TapeRecorder
) -> None:
    """Meanwhile the row of the long text takes no part, though the device knows it from the round before."""
    asked = [
        Request(str(row), (1,) * (1 if row else 200), SamplingParams(max_tokens=2 if row else 50, ignore_eos=True))
        for row in range(40)
    ]
    sizes = {"capacity": 400, "engine": GrowingEngine}
    expected = texts(decoded(open_decoder(Plan.plain(), **sizes, replays=False), asked))
    for plain in (1, 4, 7):
        decoder = open_decoder("auto", batch_size=2, **sizes)
        decoder._loop._chooser.planner = Turning([Plan.plain()] * plain + [Plan("race", 1, 2)] * 5)
        assert texts(decoded(decoder, asked)) == expected


@pytest.mark.parametrize("rule", ["single", "block"])
def test_a_row_that_looks_in_its_own_text_depends_on_itself_alone(open_decoder: OpenDecoder, rule: str) -> None:
    """So do its statistics; not even a row that lost its room and came back is another one."""
    plan, nothing = Plan(rule, 1, 4, "lookup"), DraftChoice(None)
    shuffled = [
        dataclasses.replace(one, draft=(None, None, None, nothing)[row % 4]) for row, one in enumerate(REQUESTS)
    ]
    alone = decoded(open_decoder(plan, batch_size=1), shuffled)
    assert accepted(alone).keys() == {"lookup"}
    assert accepted(alone)["lookup"] > 20
    for batch_size in (3, 8):
        random.Random(batch_size).shuffle(shuffled)
        decoder = open_decoder(plan, batch_size=batch_size)
        if batch_size == 8:
            shrink(decoder)
        assert decoded(decoder, shuffled) == alone
    assert decoder.batch_size == 2
    plain = texts(decoded(open_decoder(Plan.plain())))
    assert any(text != plain[name] for name, text in texts(alone).items())


# What the tests above must be able to notice, and why plans are refused.


def test_a_corpus_that_grows_makes_two_texts_of_a_row_unless_it_races(open_decoder: OpenDecoder) -> None:
    """Plans of other rules with a corpus are refused; this one gets by the check."""
    refused = Plan("single", 1, 3, "lookup")
    object.__setattr__(refused, "source", "corpus")
    free = SamplingParams(max_tokens=20, ignore_eos=True)
    others, asked = ([Request(f"{name} {row}", (1, 3, 2, 4, 1, 2), free) for row in range(12)] for name in "ab")
    for plan, same in ((refused, False), (Plan("race", 1, 3, "corpus"), True)):
        first, decoder = decoded(open_decoder(plan, batch_size=1), asked), open_decoder(plan, batch_size=1)
        decoded(decoder, others)
        later = decoded(decoder, asked)
        assert accepted(first) != accepted(later), "more is found in a larger corpus"
        assert (texts(first) == texts(later)) == same


def test_drafts_of_another_row_change_no_text_and_are_refused(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row here writes one token over and over, a different one in each."""
    asked = [
        Request(str(token), (token,) * 5, SamplingParams(max_tokens=21, ignore_eos=True, logit_bias=((token, 100.0),)))
        for token in range(1, 5)
    ]
    plan = Plan("race", 1, 4, "lookup")
    own = decoded(open_decoder(plan, batch_size=4), asked)
    assert all(one.speculation.sources["lookup"].accepted > 10 for one in own.values())
    choose = Chooser.choose

    def swapped(self: Chooser, batch, rows, **known):
        choice = choose(self, batch, rows, **known)
        return choice._replace(offers=[*choice.offers[1:], choice.offers[0]])

    monkeypatch.setattr(Chooser, "choose", swapped)
    others = decoded(open_decoder(plan, batch_size=4), asked)
    assert texts(others) == texts(own)
    assert all(one.speculation.sources["lookup"].accepted == 0 for one in others.values())
    assert all(one.speculation.rounds == 21 for one in others.values())
