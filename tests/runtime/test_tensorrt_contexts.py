"""Which execution contexts the TensorRT engine uses, and what it changes of them, with and without CUDA graphs.

The double refuses to change a context that a graph has recorded, to run it outside of a capture, and to record one that
has not run with its shapes.
"""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support import TableEngine, whole
from tensorrt_double import RELEASES, Double
from tensorrt_gpu import WORKSPACE, Gpu, Plan, put_in_place
from tensorrt_llama import CAPACITY, COMPILED, ROWS, SPEC, random_call, save_llama

from spectr_runtime import Call, EngineError
from spectr_runtime.bundle import Vocabulary
from spectr_runtime.bundle.compiled import CompiledEngine, EngineKey
from spectr_runtime.contract import past_names, present_names
from spectr_runtime.engines import tensorrt
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.tensorrt import TensorRTEngine
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.speculation.narrow import WidenedEngine
from spectr_runtime.speculation.surrounded import SurroundedEngine

TENSORRT = dataclasses.replace(COMPILED, key=EngineKey("tensorrt", RELEASES[-1], ("8.9",), "NVIDIA L4"))
CACHE = {*past_names(SPEC.layers), *present_names(SPEC.layers)}


class Llama(NamedTuple):
    """The engine, and beside it what computes the same and what it was told."""

    engine: TensorRTEngine
    reference: TorchEngine
    gpu: Gpu
    double: Double

    def check(self, call: Call) -> None:
        """Run a call and compare its logits and the cache with PyTorch's."""
        torch.testing.assert_close(self.engine.forward(call), self.reference.forward(call))
        torch.testing.assert_close(whole(self.engine.cache), whole(self.reference.cache))

    def capture(self, *calls: Call) -> None:
        """Run calls while the stream is being captured."""
        self.gpu.capturing = True
        for call in calls:
            self.check(call)
        self.gpu.capturing = False

    def told(self, method: str) -> list[str]:
        """The names of the tensors that a method of contexts was called for since this was last asked."""
        names = [names[0] for names in self.double.arguments(f"IExecutionContext.{method}")]
        self.double.calls[:] = [call for call in self.double.calls if not call.name.endswith(method)]
        return names


Open = Callable[..., Llama]


@pytest.fixture
def open_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    path = save_llama(tmp_path)
    reference = TorchEngine(tmp_path, SPEC, rows=ROWS, capacity=CAPACITY)

    def opened(compiled: CompiledEngine = TENSORRT) -> Llama:
        gpu = Gpu({b"plan": Plan(reference._model, SPEC, compiled)})
        double = put_in_place(gpu, RELEASES[-1], monkeypatch)
        engine = TensorRTEngine(path, compiled, SPEC, rows=ROWS, capacity=CAPACITY, tree=1, device="cpu")
        return Llama(engine, reference, gpu, double)

    return opened


@pytest.fixture
def llama(open_: Open) -> Llama:
    return open_()


@torch.inference_mode()
def test_any_order_of_sizes_and_rows_scores_as_the_torch_engine_does(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tensorrt.KEPT, "tensorrt", 2)
    llama = open_()
    shapes = [(1, 1, 1, 0), (1, 1, 1, 3), (2, 3, 2, 1), (4, 4, 4, 0), (2, 20, 1, 2), (1, 6, 1, 0)]
    for seed, (first, second) in enumerate(itertools.product(shapes, repeat=2)):
        llama.check(random_call(seed, *first))
        llama.check(random_call(seed + 100, *second))


@torch.inference_mode()
def test_calls_of_the_same_sizes_have_a_context_which_those_of_other_rows_share(llama: Llama) -> None:
    shapes = [(4, 1, 1), (1, 4, 4), (2, 32, 1), (1, 5, 1), (3, 2, 2)]
    for seed, shape in enumerate(shapes * 2):
        llama.check(random_call(seed, *shape, first_row=seed // len(shapes) * (4 - shape[0])))
    assert [context.profile for context in llama.gpu.contexts] == [0, 0, 1, 1, 0]
    assert [context.calls for context in llama.gpu.contexts] == [[shape[:2]] * 2 for shape in shapes]


@torch.inference_mode()
def test_of_a_profile_a_few_contexts_are_kept_and_the_one_idle_for_longest_gets_new_shapes(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tensorrt.KEPT, "tensorrt", 2)
    llama = open_()
    one, two, three, prompt = ((1, tokens, 1, 0) for tokens in (1, 2, 3, 9))
    for seed, shape in enumerate([one, two, one, prompt, three, one, two]):
        llama.check(random_call(seed, *shape))
    decode, other, prefill = llama.gpu.contexts
    assert decode.calls == [(1, 1)] * 3
    assert other.calls == [(1, 2), (1, 3), (1, 2)]
    assert prefill.calls == [(1, 9)]


@torch.inference_mode()
def test_shapes_are_set_once_and_addresses_in_the_cache_only_where_the_rows_or_the_cache_are_others(
    llama: Llama,
) -> None:
    inputs = {"input_ids", "position_ids", "attention_mask", "write_index", "logit_index"}
    llama.check(random_call(0, 2, 3, 1))
    assert {*llama.told("set_input_shape")} == inputs | {*past_names(SPEC.layers)}
    assert {*llama.told("set_tensor_address")} == inputs | {"logits"} | CACHE
    llama.check(random_call(1, 2, 3, 1))
    assert {*llama.told("set_tensor_address")} == inputs | {"logits"}
    llama.check(random_call(2, 2, 3, 1, first_row=1))
    assert {*llama.told("set_tensor_address")} == inputs | {"logits"} | CACHE
    llama.engine.cache.restart(3)
    llama.reference.cache.restart(3)
    llama.check(random_call(3, 2, 3, 1, first_row=1))
    assert {*llama.told("set_tensor_address")} == inputs | {"logits"} | CACHE
    assert not llama.told("set_input_shape")


@torch.inference_mode()
def test_all_contexts_compute_in_the_same_memory(llama: Llama) -> None:
    for seed, shape in enumerate([(1, 1, 1), (2, 9, 1), (4, 4, 4)]):
        llama.check(random_call(seed, *shape))
    memories = {context.memory for context in llama.gpu.contexts}
    assert len(llama.gpu.contexts) == 3
    assert len(memories) == 1
    assert memories.pop()[1] == WORKSPACE


@torch.inference_mode()
def test_a_context_that_was_recorded_is_left_alone_by_later_calls_of_its_sizes(llama: Llama) -> None:
    llama.check(random_call(0, 2, 3, 2))
    llama.capture(random_call(1, 2, 3, 2))
    (recorded,) = llama.gpu.contexts
    before = (dict(recorded.shapes), dict(recorded.addresses), recorded.memory)
    for seed in (2, 3):
        llama.check(random_call(seed, 2, 3, 2))
    llama.check(random_call(4, 2, 3, 2, first_row=1))
    llama.check(random_call(5, 4, 4, 4))  # its logits take more memory than there was
    assert (recorded.shapes, recorded.addresses, recorded.memory) == before
    assert recorded.calls == [(2, 3)] * 2
    assert llama.gpu.contexts[1].calls == [(2, 3)] * 3


@torch.inference_mode()
def test_recorded_calls_of_the_same_sizes_share_inputs_that_are_not_the_callers(llama: Llama) -> None:
    llama.check(random_call(0, 1, 2, 1))
    levels = [random_call(seed, 1, 2, 1) for seed in (1, 2, 3)]
    llama.capture(*levels)
    (recorded,) = llama.gpu.contexts
    assert recorded.calls == [(1, 2)] * 4
    assert recorded.addresses["input_ids"] not in {call.input_ids_BT.data_ptr() for call in levels}


@torch.inference_mode()
def test_the_output_of_a_recorded_call_stays_where_it_is(llama: Llama) -> None:
    llama.check(random_call(0, 1, 2, 1))
    llama.capture(call := random_call(1, 1, 2, 1))
    llama.gpu.capturing = True
    output = weakref.ref(llama.engine.forward(call))
    llama.gpu.capturing = False
    llama.check(random_call(2, 4, 4, 4))  # its logits take more memory than there was
    llama.capture(random_call(3, 1, 2, 1))
    found = output()
    assert found is not None
    assert found.data_ptr() == llama.gpu.contexts[0].addresses["logits"]


@torch.inference_mode()
def test_graphs_share_the_context_of_their_sizes_and_rows(llama: Llama) -> None:
    for seed in range(3):
        llama.check(random_call(seed, 1, 2, 1))
        llama.capture(random_call(seed + 10, 1, 2, 1))
    llama.capture(random_call(20, 1, 2, 1, first_row=2))
    first, other = llama.gpu.contexts
    assert (first.captured, len(first.calls)) == (True, 4)
    assert (other.captured, len(other.calls)) == (True, 3)


@torch.inference_mode()
def test_an_engine_is_gone_as_soon_as_nobody_holds_it(open_: Open) -> None:
    llama = open_()
    llama.check(random_call(0, 1, 2, 1))
    llama.capture(random_call(1, 1, 2, 1))
    engine = weakref.ref(llama.engine)
    del llama
    assert engine() is None


def test_inputs_of_a_graph_can_be_recorded_in_and_out_of_inference_mode(llama: Llama) -> None:
    with torch.inference_mode():
        llama.check(random_call(0, 1, 2, 1))
        llama.capture(random_call(1, 1, 2, 1))
    llama.capture(random_call(2, 1, 2, 1))


@torch.inference_mode()
def test_a_call_is_not_recorded_before_one_of_its_sizes_has_run(llama: Llama) -> None:
    llama.check(random_call(0, 1, 2, 1))
    llama.gpu.capturing = True
    with pytest.raises(EngineError, match=r"B, T, L, M = \(1, 3, 40, 1\) cannot be recorded") as caught:
        llama.engine.forward(random_call(1, 1, 3, 1))
    assert caught.value.hint == "Run the call once before it is recorded."


@torch.inference_mode()
def test_recorded_contexts_are_given_up_once_the_cache_has_moved(llama: Llama) -> None:
    llama.check(random_call(0, 1, 2, 1))
    llama.capture(random_call(1, 1, 2, 1))
    llama.engine.cache.restart(2)
    llama.gpu.capturing = True
    with pytest.raises(EngineError, match="cannot be recorded"):
        llama.engine.forward(random_call(2, 1, 2, 1))
    llama.gpu.capturing = False
    llama.engine.forward(random_call(3, 1, 2, 1))
    assert not llama.engine._contexts._recorded


def test_which_engines_can_be_captured(open_: Open) -> None:
    llama, rtx, table = open_(TENSORRT).engine, open_(COMPILED).engine, TableEngine(0)
    assert (llama.capturable, rtx.capturable) == (True, False)
    assert (TorchEngine.capturable, OnnxRuntimeEngine.capturable) == (True, False)
    for engine in (llama, table):
        around: Any = None
        assert SurroundedEngine(engine, around).capturable is engine.capturable
        assert WidenedEngine(engine, Vocabulary(300, (256,))).capturable is engine.capturable
