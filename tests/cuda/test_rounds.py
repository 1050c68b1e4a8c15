"""Rounds on the device: warm ones wait for nothing, can be recorded, and write what rounds write that are not."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from capturable import capturable
from fragile import EndFragile
from support import TableEngine
from table_pair import table_decoder

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call
from spectr_runtime.replay.transfer import Download, Parcel, Upload
from spectr_runtime.speculation import launch
from spectr_select import RULES

PLANS = [Plan.plain(), *(Plan(rule, 1 if RULES[rule].trees == "chain" else 2, 2) for rule in sorted(RULES))]
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.9, "top_k": 4, "logprobs": 2},
    {"presence_penalty": 0.9, "repetition_penalty": 1.3, "min_tokens": 3},
    {"logit_bias": ((2, 1.5),), "stop_token_ids": (4,), "logprobs": 0},
)


class Recordable(TableEngine):
    """A table engine whose rounds can be recorded."""

    capturable = True


class RecordableFragile(EndFragile):
    """The same, where what is decoded for nobody is not finite."""

    capturable = True


class Greedy(Recordable):
    """A table engine that asks for more memory than there is, if it is fed more than three rows."""

    def forward(self, call: Call) -> torch.Tensor:
        """See ``TableEngine``."""
        if len(call.input_ids_BT) > 3 and len(self.calls) > 20:
            torch.empty(2**50, device=self.cache.device)
        return super().forward(call)


def requests(count: int = 40) -> list[Request]:
    chosen = random.Random(5)
    return [
        Request(
            str(row),
            tuple(chosen.randint(1, 4) for _ in range(chosen.choice((1, 2, 5, 9)))),
            SamplingParams(**{"max_tokens": chosen.randint(3, 12)} | KINDS[chosen.randrange(len(KINDS))]),
            echo=row % 7 == 0,
        )
        for row in range(count)
    ]


def decoded(decoder: Decoder, asked: list[Request]) -> dict[str, tuple[object, ...]]:
    found = {one.id: one for one in decoder.generate(asked) if isinstance(one, Completion)}
    assert len(found) == len(asked)
    return {name: (one.token_ids, one.text, one.finish_reason, one.speculation) for name, one in found.items()}


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_rounds_of_every_rule_are_replayed(
    monkeypatch: pytest.MonkeyPatch, device: str, plan: Plan, recorded: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    asked = requests(14 if device == "cpu" else 40)
    options = {"batch_size": 5, "engine": Recordable, "device": device}
    expected = decoded(table_decoder(monkeypatch, plan, replays=False, **options), asked)
    assert not recorded
    assert decoded(table_decoder(monkeypatch, plan, **options), asked) == expected
    assert sum(recorded) > 1
    assert not [record.message for record in caplog.records if "cannot be recorded" in record.message]


@contextmanager
def waiting_for_nothing() -> Iterator[None]:
    """Refuse to wait for a GPU."""
    with warnings.catch_warnings(action="ignore"):  # PyTorch warns that it may not notice every wait
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_warm_round_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, device: str, plan: Plan) -> None:
    """All rounds have one shape but the first parts of it that are made once."""
    refuse: Callable[[], AbstractContextManager[None]] = capturable if device == "cpu" else waiting_for_nothing
    speculate, rounds = launch.speculate, [0]

    def checked(*arguments: Any) -> Any:
        rounds[0] += 1
        if rounds[0] < 3:
            return speculate(*arguments)
        with refuse():
            return speculate(*arguments)

    monkeypatch.setattr(launch, "speculate", checked)
    params = SamplingParams(max_tokens=12, ignore_eos=True, top_p=0.9, frequency_penalty=0.5, logprobs=1)
    asked = [Request(str(row), (1, 3, 2), params) for row in range(4)]
    decoder = table_decoder(
        monkeypatch,
        plan,
        batch_size=4,
        engine=Recordable,
        device=device,
        replays=False,
        call_tokens=plan.tree.size,
    )
    decoded(decoder, asked)
    assert rounds[0] > 3


@pytest.mark.parametrize("plan", [PLANS[0], Plan("kseq", 2, 2)], ids=str)
def test_a_batch_for_which_there_is_no_memory_is_halved(
    monkeypatch: pytest.MonkeyPatch, device: str, plan: Plan
) -> None:
    asked = requests()
    expected = decoded(table_decoder(monkeypatch, plan, batch_size=2, engine=Recordable, device=device), asked)
    decoder = table_decoder(monkeypatch, plan, batch_size=8, engine=Greedy, device=device)
    assert decoded(decoder, asked) == expected
    assert decoder.batch_size == 2


@pytest.mark.parametrize("batch_size", [2, 5])
def test_what_is_decoded_for_nobody_reaches_no_row(
    monkeypatch: pytest.MonkeyPatch, device: str, batch_size: int
) -> None:
    asked = [
        Request(str(row), (1 + row % 3,) * (1, 2, 7)[row % 3], SamplingParams(max_tokens=9), echo=row % 2 == 0)
        for row in range(30)
    ]
    expected = decoded(table_decoder(monkeypatch, PLANS[0], batch_size=1, device=device, replays=False), asked)
    options = {"batch_size": batch_size, "engine": RecordableFragile, "device": device}
    assert decoded(table_decoder(monkeypatch, PLANS[0], **options), asked) == expected


def test_parcels_arrive_in_their_order_while_the_device_is_busy(device: str) -> None:
    """The host waits for what came after a parcel before it sends the one after the next."""

    def parcel(number: int) -> Parcel:
        made = Parcel()
        made.integers("whole", [number, -number, 2**63 - 1 - number] * 50)
        return made

    upload = Upload(parcel(0).layout, torch.device(device))
    downloads = list[Download]()
    for number in range(20):
        if device != "cpu":
            torch.cuda._sleep(1_000_000)
        upload.send(parcel(number))
        downloads.append(Download(upload.tensors["whole"], parcel(0).layout))
        if number:
            found = downloads[number - 1].tensors()["whole"].tolist()
            assert found == parcel(number - 1).words.tolist()
