"""The TensorRT engine against a double of the API that runs the model in PyTorch at the addresses it is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorrt_gpu
import torch
from support import whole
from tensorrt_double import RELEASES, Double
from tensorrt_gpu import Context, Gpu, Plan, put_in_place
from tensorrt_llama import CAPACITY, COMPILED, KEY, PROFILES, ROWS, SPEC, random_call, save_llama

from spectr_runtime import Bundle, Call, EngineError, Manifest, UsageError, open_engine
from spectr_runtime.bundle import Limits, Vocabulary
from spectr_runtime.bundle.compiled import CompiledEngine
from spectr_runtime.engines.tensorrt import TensorRTEngine
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.errors import is_out_of_memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("tensorrt_engine")).parent


@pytest.fixture
def reference(folder: Path) -> TorchEngine:
    return TorchEngine(folder, SPEC, rows=ROWS, capacity=CAPACITY)


@pytest.fixture
def gpu(reference: TorchEngine) -> Gpu:
    return Gpu({b"plan": Plan(reference._model, SPEC, COMPILED)})


@pytest.fixture(params=RELEASES)
def double(request: pytest.FixtureRequest, gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> Double:
    return put_in_place(gpu, request.param, monkeypatch)


Open = Callable[..., TensorRTEngine]


@pytest.fixture
def open_(double: Double, folder: Path) -> Open:
    def opened(
        compiled: CompiledEngine = COMPILED, rows: int = ROWS, capacity: int = CAPACITY, tree: int = 1
    ) -> TensorRTEngine:
        path = folder / "llama.engine"
        return TensorRTEngine(path, compiled, SPEC, rows=rows, capacity=capacity, tree=tree, device="cpu")

    return opened


SHAPES = [(4, 1, 1, 0), (1, 4, 4, 3), (2, 32, 1, 1), (1, 5, 1, 0), (3, 2, 2, 1)]


@torch.inference_mode()
def test_calls_write_the_cache_and_score_as_the_torch_engine_does(open_: Open, reference: TorchEngine) -> None:
    engine = open_()
    for seed, (rows, tokens, wanted, first_row) in enumerate(SHAPES):
        call = random_call(seed, rows, tokens, wanted, first_row)
        torch.testing.assert_close(engine.forward(call), reference.forward(call))
        torch.testing.assert_close(whole(engine.cache), whole(reference.cache))


@torch.inference_mode()
def test_each_profile_has_a_context_and_serves_the_calls_that_it_takes_first(
    open_: Open, gpu: Gpu, double: Double
) -> None:
    engine = open_()
    for seed, shape in enumerate(SHAPES):
        engine.forward(random_call(seed, *shape))
    assert [context.profile for context in gpu.contexts] == [0, 1]
    assert [context.calls for context in gpu.contexts] == [[(4, 1), (1, 4), (3, 2)], [(2, 32), (1, 5)]]
    assert double.arguments("Runtime.deserialize_cuda_engine") == [(b"plan",)]


@torch.inference_mode()
def test_inputs_need_not_be_contiguous(open_: Open, reference: TorchEngine) -> None:
    engine, call = open_(), random_call(0, 2, 3, 1)
    strided = Call(
        call.input_ids_BT.t().contiguous().t(),
        call.position_ids_BT,
        call.attention_mask_B1TL,
        call.write_index_B,
        call.logit_index_BM.expand(-1, 3),
    )
    assert not strided.input_ids_BT.is_contiguous()
    torch.testing.assert_close(engine.forward(strided), reference.forward(strided))


def test_the_cache_has_the_capacity_that_was_compiled(open_: Open) -> None:
    engine = open_(rows=2, capacity=10)
    assert (engine.cache.rows, engine.cache.capacity) == (2, CAPACITY)


def test_calls_that_do_not_fit_are_refused(open_: Open) -> None:
    engine = open_()
    with pytest.raises(EngineError, match="a row has 64"):
        engine.forward(_beyond_the_end())
    with pytest.raises(EngineError, match=r"no profile for a call of B=1 L=40 M=2 T=5"):
        engine.forward(random_call(0, 1, 5, 2))


def _beyond_the_end() -> Call:
    call = random_call(0, 1, 4, 1)
    call.write_index_B.fill_(CAPACITY - 3)
    return call


def test_more_rows_or_slots_than_compiled_are_refused_with_the_option_that_helps(open_: Open) -> None:
    with pytest.raises(EngineError, match="compiled for up to 4 rows; 5 are asked for") as caught:
        open_(rows=5)
    assert caught.value.hint == "Use --batch-size 4, or compile the bundle with --batch-size 5."
    with pytest.raises(EngineError, match="has 64 slots; bundle and plan need 65") as caught:
        open_(capacity=65)
    assert "--tree-tokens" in caught.value.hint


def test_weights_are_streamed_where_the_engine_was_compiled_so(open_: Open, double: Double) -> None:
    open_()
    assert not double.arguments("ICudaEngine.weight_streaming_budget_v2")
    open_(CompiledEngine(KEY, "", "", CAPACITY, PROFILES, "fused", weight_streaming=True))
    assert double.arguments("ICudaEngine.weight_streaming_budget_v2") == [(123,)]


def test_an_engine_that_does_not_open_says_what_tensorrt_said(open_: Open, gpu: Gpu) -> None:
    gpu.refusal = "Version tag does not match.\nMore."
    with pytest.raises(
        EngineError, match=r"TensorRT cannot open llama\.engine: Version tag does not match\. Check the driver"
    ):
        open_()


def test_memory_to_compute_in_that_is_not_there_is_named(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_gpu, "WORKSPACE", 2**60)
    with pytest.raises(EngineError, match=r"no memory for the .* that TensorRT computes in") as caught:
        open_()
    assert "compile with a smaller --batch-size" in caught.value.hint
    assert is_out_of_memory(caught.value)


def test_a_context_without_room_is_refused(open_: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_()
    monkeypatch.setattr(Context, "choose", lambda *_: False)
    with pytest.raises(EngineError, match="no room to run profile decode"):
        engine.forward(random_call(0, 1, 1, 1))


@torch.inference_mode()
def test_a_failed_call_is_an_engine_error_and_its_context_is_not_used_again(
    open_: Open, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_()
    with monkeypatch.context() as patch:
        patch.setattr(Context, "run", lambda *_, capturing: False)
        with pytest.raises(EngineError, match="TensorRT failed in a call"):
            engine.forward(random_call(0, 1, 1, 1))
    engine.forward(random_call(0, 1, 1, 1))
    assert [context.calls for context in gpu.contexts] == [[], [(1, 1)]]


def bundle_at(path: Path) -> Bundle:
    manifest = Manifest(
        {"draft": SPEC, "target": SPEC}, Vocabulary(257, (256,)), Limits(32, 32), {}, {}, {"draft": {}, "target": {}}
    )
    return Bundle(path, manifest)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_device_that_is_no_gpu_is_refused(tmp_path: Path, backend: Any) -> None:
    with pytest.raises(UsageError, match=f"Backend {backend} runs on a CUDA device; got 'cpu'"):
        open_engine(bundle_at(tmp_path), "target", backend=backend, device="cpu", rows=1, capacity=32)


def test_a_machine_without_an_engine_in_the_bundle_is_refused(
    double: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with pytest.raises(EngineError, match=rf"The target has no engine for tensorrt-rtx {double.__version__}") as caught:
        open_engine(bundle_at(tmp_path), "target", backend="tensorrt-rtx", device="cuda", rows=1, capacity=32)
    assert caught.value.hint == f"Run `spectr-export compile {tmp_path} --backend tensorrt-rtx` on this machine."
