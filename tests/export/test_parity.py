from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_models import save_checkpoint, tiny_model

from spectr_export.checks.parity import PARENTS, SMALLEST_CAPACITY, check_parity
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import ABSOLUTE, RELATIVE, within
from spectr_runtime import BundleError, Call, ModelSpec
from spectr_runtime.engines.torch import TorchEngine

SPEC = ModelSpec("llama", 2, 2, 8, 257, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("parity"), tiny_model("llama"))


class FaultyEngine:
    """A sound engine with a fault in its inputs or its outputs."""

    def __init__(
        self,
        folder: Path,
        change_call: Callable[[Call], Call] = lambda call: call,
        change_logits: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
        capacity: int = 128,
    ) -> None:
        self._engine = TorchEngine(folder, SPEC, rows=3, capacity=capacity)
        self.spec, self.cache = SPEC, self._engine.cache
        self._change_call, self._change_logits = change_call, change_logits

    def forward(self, call: Call) -> torch.Tensor:
        return self._change_logits(self._engine.forward(self._change_call(call)))


@pytest.mark.parametrize("capacity", [SMALLEST_CAPACITY, 100, 128])
def test_a_sound_engine_passes_at_any_capacity(folder: Path, capacity: int) -> None:
    parity = check_parity(tiny_model("llama"), FaultyEngine(folder, capacity=capacity), name="sound")
    assert list(parity) == ["prefill", "tree", "steps"]
    assert all(0 < difference < 1e-4 for difference in parity.values())


def positions_are_slots(call: Call) -> Call:
    slots_BT = call.write_index_B[:, None] + torch.arange(call.input_ids_BT.shape[1])
    return dataclasses.replace(call, position_ids_BT=slots_BT)


def nodes_see_what_stands_before_them(call: Call) -> Call:
    slots_BT = call.write_index_B[:, None] + torch.arange(call.input_ids_BT.shape[1])
    length = call.attention_mask_B1TL.shape[-1]
    return dataclasses.replace(call, attention_mask_B1TL=(torch.arange(length) <= slots_BT[..., None])[:, None])


def one_slot_late(call: Call) -> Call:
    mask_B1TL = torch.nn.functional.pad(call.attention_mask_B1TL, (0, 1))
    late_B = call.write_index_B + (call.write_index_B > 30)
    return dataclasses.replace(call, write_index_B=late_B, attention_mask_B1TL=mask_B1TL)


def rows_start_at_zero(call: Call) -> Call:
    return dataclasses.replace(call, first_row=0)


def columns_reversed(call: Call) -> Call:
    return dataclasses.replace(call, logit_index_BM=call.logit_index_BM.flip(1))


@pytest.mark.parametrize(
    ("fault", "stage"),
    [
        (positions_are_slots, "tree"),
        (nodes_see_what_stands_before_them, "tree"),
        (one_slot_late, "prefill"),
        (rows_start_at_zero, "tree"),
        (columns_reversed, "prefill"),
    ],
)
def test_a_fault_in_the_call_is_found(folder: Path, fault: Callable[[Call], Call], stage: str) -> None:
    with pytest.raises(BundleError, match=rf"Parity failed \(broken, {stage}\)"):
        check_parity(tiny_model("llama"), FaultyEngine(folder, change_call=fault), name="broken")


def test_a_cache_that_is_not_compacted_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FaultyEngine(folder)
    monkeypatch.setattr(engine.cache, "keep", lambda base_B, accepted_BD, end: None)
    with pytest.raises(BundleError, match=r"Parity failed \(broken, steps\)"):
        check_parity(tiny_model("llama"), engine, name="broken")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.01])
def test_one_wrong_logit_is_found(folder: Path, wrong: float) -> None:
    def spoil(logits_BMV: torch.Tensor) -> torch.Tensor:
        if logits_BMV.shape[1] == len(PARENTS):
            logits_BMV[2, 5, 100] += wrong
        return logits_BMV

    with pytest.raises(BundleError, match=r"\(broken, tree\): logits after \d+ tokens differ from transformers by"):
        check_parity(tiny_model("llama"), FaultyEngine(folder, change_logits=spoil), name="broken")


def test_other_weights_are_found(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"Parity failed \(other, prefill\)"):
        check_parity(tiny_model("llama", seed=9), FaultyEngine(folder), name="other")


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom", "qwen3_moe"])
def test_the_reference_gives_what_a_pass_over_each_text_alone_gives(family: str) -> None:
    model = tiny_model(family)
    texts = [tuple(range(3, 25)), (4, 8, 15), (108, 42)]
    branches = [[(*text, 7, 9, 11), (*text, 200), (*text, 7, 30, 12, 5)] for text in texts]
    reference = Reference(model)
    with torch.inference_mode():
        reference.read(texts, branches)
        for longest in (branch for several in branches for branch in several):
            expected_TV = model(input_ids=torch.tensor([longest])).logits[0]
            for length in range(1, len(longest) + 1):
                found_V = reference.logits(longest[:length])
                torch.testing.assert_close(found_V, expected_TV[length - 1], atol=1e-5, rtol=1e-4)


def test_the_reference_reads_the_weights_seldom_and_never_for_a_text_that_it_knows() -> None:
    model = tiny_model("llama")
    passes: list[torch.Size] = []
    model.register_forward_pre_hook(
        lambda _model, _args, given: passes.append(given["input_ids"].shape), with_kwargs=True
    )
    reference = Reference(model)
    texts = [tuple(range(12)), tuple(range(50, 55))]
    branches = [[(*text, 1, 2), (*text, 3)] for text in texts]
    with torch.inference_mode():
        for _ in range(2):
            reference.read(texts, branches)
    assert passes == [(2, 2), (1, 10), (2, 2), (1, 3), (2, 2)]


@pytest.mark.parametrize(
    ("spread", "off", "sound"), [(0.1, 0.9e-4, True), (0.1, 2e-4, False), (10.0, 9e-4, True), (10.0, 3e-3, False)]
)
def test_logits_near_zero_may_differ_by_what_their_spread_rounds(spread: float, off: float, sound: bool) -> None:
    expected_V = torch.linspace(-1, 1, 1001) * spread * 3**0.5  # a uniform law's standard deviation is a third's root
    found_V = expected_V.clone()
    found_V[500] += off
    assert within(ABSOLUTE, RELATIVE)(found_V, expected_V)[1] == sound
