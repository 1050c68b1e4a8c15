"""Decoding with a head: its laws are those of the texts it drafts for, whatever happened to rows before."""

# B rows, D depth, F width of the features, N tree nodes, P nodes with children, V vocabulary.
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from replayed import TapeRecorder, recorder
from support import chi_square_p_value
from tiny_heads import SIZE, head_tensors, save_head, speculators_settings, target_checkpoint

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call, Engine, HeadInputs
from spectr_runtime.drafting.batch import Rows
from spectr_runtime.drafting.head import DraftHead
from spectr_runtime.drafting.source import Drafts
from spectr_runtime.engines import open_engine
from spectr_runtime.planning.planner import RACES, TEXT_RACES
from spectr_runtime.speculation.narrow import widened
from spectr_runtime.speculation.plan import PlanChoice
from spectr_select import DraftTree, Noise

__all__ = ["recorder"]
SHARED = tuple(range(40, 75))  # more than two blocks of prefixes that are kept
PROMPTS = (
    *((7,), (3, 1, 4, 1, 5), tuple(range(100, 160)), (5, 5)),
    *((*SHARED, 9), (*SHARED, 8, 7), SHARED[:33], (*SHARED[:16], *range(200, 217), 4)),
)
REQUESTS = [
    Request(str(row), prompt, SamplingParams(max_tokens=20 + row, ignore_eos=True))
    for row, prompt in enumerate(PROMPTS)
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("headed")
    target = target_checkpoint(folder / "target")
    head = save_head(folder / "head", speculators_settings(), head_tensors())
    build(BuildOptions(str(target), str(head)), folder / "bundle", say=lambda line: None)
    return Bundle.open(folder / "bundle")


@pytest.fixture(autouse=True)
def costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Reference:
    """The laws of a head for one text, computed anew for every question."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def laws(self, text: Sequence[int], path: Sequence[int]) -> torch.Tensor:
        """The laws after the last token of a text and after the drafts of a path but the last one; [D, V]."""
        target, draft = self._engine("target"), widened(self._engine("draft"), self._bundle)
        features_BTF = target.run(call_of(text[:-1], 0)).states_BTW
        assert features_BTF is not None
        read = HeadInputs(features_BTF, torch.zeros(1, len(text) - 1, SIZE), torch.zeros(1, len(text) - 1) > 0)
        logits_BMV, states_BTH = draft.run(dataclasses.replace(call_of(text[1:], 0), head=read))
        found = [logits_BMV[0, 0].clone()]
        for depth, token in enumerate(path[:-1]):
            assert states_BTH is not None
            own = HeadInputs(torch.zeros(1, 1, features_BTF.shape[2]), states_BTH[:, -1:].clone(), torch.ones(1, 1) > 0)
            call = dataclasses.replace(call_of([token], len(text) - 1 + depth), head=own)
            logits_BMV, states_BTH = draft.run(call)
            found.append(logits_BMV[0, 0].clone())
        return torch.stack(found).softmax(-1)

    def _engine(self, role: Any) -> Engine:
        return open_engine(self._bundle, role, backend="torch", device="cpu", rows=1, capacity=256)


def call_of(tokens: Sequence[int], first: int) -> Call:
    """A call that feeds tokens from a slot on, and asks for the logits of the last one."""
    count, length = len(tokens), first + len(tokens)
    return Call(
        input_ids_BT=torch.tensor([[*tokens]]),
        position_ids_BT=torch.arange(first, length)[None],
        attention_mask_B1TL=torch.ones((length, length), dtype=torch.bool).tril()[None, None, first:],
        write_index_B=torch.tensor([first]),
        logit_index_BM=torch.tensor([[count - 1]]),
    )


class Checked:
    """Compares every law that a head drafts from with the reference, and counts what it compared."""

    def __init__(self, decoder: Decoder, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
        self.compared, self.worst = 0, 0.0
        self._decoder, self._reference = decoder, reference
        drafted = DraftHead.draft

        def draft(head: DraftHead, rule: str, tree: DraftTree, rows: Rows, noise: Noise) -> Drafts:
            drafts = drafted(head, rule, tree, rows, noise)
            self._compare(tree, rows, drafts)
            return drafts

        monkeypatch.setattr(DraftHead, "draft", draft)

    def _compare(self, tree: DraftTree, rows: Rows, drafts: Drafts) -> None:
        assert drafts.law_BPV is not None
        for index, row in enumerate(self._decoder._loop._scheduler.batch):
            if row is None or row.length < 2 or int(rows.length_B[index]) != row.length:
                continue
            for leaf in tree.levels[-1]:
                nodes = tree.path(leaf)
                laws_DV = self._reference.laws(row.tokens, drafts.tokens_BN[index, list(nodes)].tolist())
                found_DV = drafts.law_BPV[index, [0, *nodes[:-1]]]
                found_DV = found_DV / found_DV.sum(-1, keepdim=True)
                self.worst = max(self.worst, float((laws_DV - found_DV).abs().max()))
                self.compared += len(nodes)


def decoded(decoder: Decoder, requests: Sequence[Request] = REQUESTS) -> dict[str, tuple[int, ...]]:
    found = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    assert len(found) == len(requests)
    return found


class Turning:
    """A planner that takes another plan every round, so that the head draws near and falls behind."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._plans, self._turn = plans, 0

    def choose(self, *_: object) -> Plan:
        self._turn += 1
        return self._plans[self._turn % len(self._plans)]

    def put_off(self) -> None: ...

    def prefers(self, plan: Plan, proposal: object) -> bool:
        return self._turn % 3 == 0

    def plain_seconds(self, rows: int) -> None:
        return None

    def observe(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("plan", "batch_size"),
    [(Plan("race", 1, 4), 1), (Plan("race", 2, 3), 3), (Plan("single", 1, 3), 4), (Plan("kseq", 2, 2), 8)],
    ids=str,
)
@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_head_drafts_from_its_law_of_the_text(
    plan: Plan, batch_size: int, backend: Any, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts share beginnings, are longer than a call, or are one token, and rows come and go."""
    decoder = Decoder(bundle, plan=plan, backend=backend, batch_size=batch_size)
    checked = Checked(decoder, Reference(bundle), monkeypatch)
    decoded(decoder, REQUESTS if batch_size > 1 else REQUESTS[:5])
    assert checked.compared > 150
    assert checked.worst < 1e-4
    assert batch_size == 1 or decoder.reading.copied > 0


def test_a_head_that_other_sources_take_the_place_of_is_fed_what_they_wrote(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many rounds are drafted by nobody or from texts, more than there are places for features."""
    plans = [Plan.plain()] * 30 + [Plan("race", 1, 2, "texts")] * 40 + [Plan("race", 1, 4), Plan("race", 2, 2)]
    requests = [
        dataclasses.replace(one, params=SamplingParams(max_tokens=150, ignore_eos=True)) for one in REQUESTS[:3]
    ]
    expected = decoded(Decoder(bundle, plan=Plan.plain(), batch_size=3), requests)
    decoder = Decoder(bundle, plan="auto", batch_size=3)
    decoder._loop._chooser.planner = Turning(plans)
    checked = Checked(decoder, Reference(bundle), monkeypatch)
    assert decoded(decoder, requests) == expected
    assert checked.compared > 10
    assert checked.worst < 1e-4


def test_a_head_that_lags_is_fed_beside_a_row_that_is_about_to_end(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one row lacks is more than the other one has slots for behind its text."""
    capacity = 110
    limits = dataclasses.replace(bundle.manifest.limits, capacity=capacity)
    short = dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, limits=limits))
    prompts = [(3, 1, 4), *(tuple(range(100, 100 + tokens)) for tokens in (90, 100, 105, 99))]
    requests = [
        Request(str(row), prompt, SamplingParams(max_tokens=capacity - len(prompt), ignore_eos=True))
        for row, prompt in enumerate(prompts)
    ]
    expected = decoded(Decoder(short, plan=Plan.plain(), batch_size=2), requests)
    decoder = Decoder(short, plan="auto", batch_size=2)
    decoder._loop._chooser.planner = Turning([Plan.plain()] * 30 + [Plan("race", 1, 2)] * 2)
    checked = Checked(decoder, Reference(bundle), monkeypatch)
    assert decoded(decoder, requests) == expected
    assert checked.compared > 8
    assert checked.worst < 1e-4


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_races_on_a_head_write_the_plain_text(batch_size: int, bundle: Bundle) -> None:
    expected = decoded(Decoder(bundle, plan=Plan.plain(), batch_size=1))
    assert decoded(Decoder(bundle, plan=Plan("race", 2, 4), batch_size=batch_size)) == expected
    decoder = Decoder(bundle, plan="auto", batch_size=batch_size)
    decoder._loop._chooser.planner = Turning((*RACES, *TEXT_RACES))
    assert decoded(decoder) == expected


def test_a_row_drafts_the_same_alone_and_beside_others(bundle: Bundle) -> None:
    """The text of a rule that tests laws, and what it accepted, depend on these laws."""

    def completions(batch_size: int) -> dict[str, Completion]:
        decoder = Decoder(bundle, plan=Plan("single", 1, 3), batch_size=batch_size)
        return {one.id: one for one in decoder.generate(REQUESTS) if isinstance(one, Completion)}

    alone, together = completions(1), completions(5)
    for name, one in alone.items():
        assert (one.token_ids, one.speculation) == (together[name].token_ids, together[name].speculation)


@pytest.mark.parametrize("plan", [Plan("race", 2, 3), Plan("single", 1, 3), Plan("kseq", 2, 2), "auto"], ids=str)
def test_rounds_with_a_head_that_are_replayed_write_the_same(
    plan: PlanChoice, bundle: Bundle, recorder: TapeRecorder
) -> None:
    written = []
    for replays in (None, False):
        decoder = Decoder(bundle, plan=plan, backend="torch", batch_size=3, replays=replays)
        if plan == "auto":
            decoder._loop._chooser.planner = Turning(
                [Plan.plain()] * 9 + [Plan("race", 1, 2, "texts")] * 9 + [RACES[3]] * 9
            )
        written.append(decoded(decoder))
    assert written[0] == written[1]
    assert recorder.replayed > 4


def shifted(keep: Callable[..., None]) -> Callable[..., None]:
    def wrong(head: DraftHead, rows: Rows, accepted: torch.Tensor, size: int, states: torch.Tensor) -> None:
        keep(head, rows, accepted, size, states.roll(1, dims=1))

    return wrong


def test_the_state_of_a_wrong_node_is_noticed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the head is fed the features of the neighbour of each node."""
    monkeypatch.setattr(DraftHead, "keep", shifted(DraftHead.keep))
    decoder = Decoder(bundle, plan=Plan("race", 1, 4), batch_size=3)
    checked = Checked(decoder, Reference(bundle), monkeypatch)
    decoded(decoder, REQUESTS[1:4])
    assert checked.worst > 1e-3


@pytest.mark.parametrize("plan", [Plan("single", 1, 2), Plan("kseq", 2, 2), Plan("race", 2, 2)], ids=str)
def test_the_first_three_tokens_follow_the_targets_law(plan: Plan, bundle: Bundle) -> None:
    """Two tokens are possible after each text, which the truncation leaves, so the law of three has eight cells."""
    params, prompt, rows = SamplingParams(max_tokens=3, top_k=2, temperature=2.0, ignore_eos=True), (3, 1, 4), 3000
    requests = [Request(str(row), prompt, params) for row in range(rows)]
    texts = list(decoded(Decoder(bundle, plan=plan, batch_size=100, backend="torch"), requests).values())
    law = {text: law_of(bundle, prompt, text, params) for text in sorted(set(texts))}
    counts = torch.tensor([texts.count(text) for text in law])
    probabilities = torch.tensor([*law.values()], dtype=torch.float64)
    assert float(probabilities.sum()) == pytest.approx(1.0, abs=1e-4)
    assert chi_square_p_value(counts, probabilities) > 1e-6


def law_of(bundle: Bundle, prompt: Sequence[int], text: Sequence[int], params: SamplingParams) -> float:
    """The probability of a text under the target."""
    target = open_engine(bundle, "target", backend="torch", device="cpu", rows=1, capacity=64)
    probability = 1.0
    for index, token in enumerate(text):
        logits_V = target.forward(call_of([*prompt, *text[:index]], 0))[0, 0] / params.temperature
        kept = logits_V.topk(params.top_k)
        place = kept.indices.tolist().index(token)
        probability *= float(kept.values.softmax(-1)[place])
    return probability
