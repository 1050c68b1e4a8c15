from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from support import whole
from tiny_models import save_checkpoint, tiny_model

from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_runtime import Call, EngineError, ModelSpec, UsageError
from spectr_runtime.contract import past_names
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.engines import onnxruntime as engine_module
from spectr_runtime.engines.attention import with_cpu_attention, without_cuts
from spectr_runtime.engines.buffers import Outputs
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine, check_providers
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.reading.prefixes import BLOCK, PrefixStore

SPEC = ModelSpec("llama", 2, 2, 8, 257, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_checkpoint(tmp_path_factory.mktemp("onnxruntime_engine"), tiny_model("llama"))
    export_graph(folder, SPEC)
    return folder


def random_call(
    seed: int,
    *,
    rows: int = 2,
    tokens: int = 3,
    length: int = 20,
    wanted: int = 2,
    first_row: int = 0,
    highest_slot: int = 16,
) -> Call:
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    return Call(
        integers(257, rows, tokens),
        integers(100, rows, tokens),
        torch.rand((rows, 1, tokens, length), generator=generator) < 0.6,
        integers(highest_slot, rows),
        integers(tokens, rows, wanted),
        first_row,
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 1, "tokens": 1, "length": 1, "wanted": 1, "highest_slot": 1},
        {"rows": 1, "tokens": 9, "first_row": 3, "highest_slot": 12},
        {"rows": 3, "tokens": 2, "length": 32, "highest_slot": 31, "first_row": 1},  # the whole capacity
        {"rows": 4, "tokens": 1, "wanted": 1},
        {"rows": 2, "tokens": 17, "wanted": 17, "highest_slot": 4},
    ],
)
def test_agrees_with_the_torch_engine_on_any_call(folder: Path, shape: dict[str, int]) -> None:
    engines = [engine(folder, SPEC, rows=4, capacity=32) for engine in (OnnxRuntimeEngine, TorchEngine)]
    for seed in range(3):
        call = random_call(seed, **shape)
        found_BMV, expected_BMV = (engine.forward(call) for engine in engines)
        assert found_BMV.dtype == torch.float32
        torch.testing.assert_close(found_BMV, expected_BMV, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(*(whole(engine.cache) for engine in engines), atol=1e-4, rtol=1e-3)


def text_call(tokens: int, start: int, *, rows: int = 1, first_row: int = 0) -> Call:
    """A call that goes on with a text whose token at place n is n modulo 250."""
    ids_T = torch.arange(start, start + tokens)
    start_B = torch.full((rows,), start)
    return Call(
        (ids_T % 250).repeat(rows, 1),
        (ids_T % 128).repeat(rows, 1),
        block_mask(start_B, triangle(tokens, torch.device("cpu")), aligned(start + tokens)),
        start_B,
        torch.arange(tokens).repeat(rows, 1),
        first_row,
    )


@pytest.mark.parametrize("attention", [with_cpu_attention, without_cuts])
def test_the_cache_has_the_slots_that_its_rows_need(
    folder: Path, monkeypatch: pytest.MonkeyPatch, attention: Callable[[bytes], bytes]
) -> None:
    """Texts grow, one waits while others are read, all become short; the logits are those of the torch engine.

    The graph that a GPU gets, without cuts and else as it is stored, computes them too.
    """
    monkeypatch.setattr(engine_module, "with_cpu_attention", attention)
    engine, reference = (kind(folder, SPEC, rows=4, capacity=1000) for kind in (OnnxRuntimeEngine, TorchEngine))
    slots = []

    def same(call: Call) -> None:
        torch.testing.assert_close(engine.forward(call), reference.forward(call), atol=1e-4, rtol=1e-3)
        assert engine.cache.slots == reference.cache.slots
        slots.append(engine.cache.slots)

    for start in range(0, 400, 100):
        same(text_call(100, start, rows=2))
    for _ in range(3):
        same(text_call(3, 0, rows=2, first_row=2))  # the long texts wait meanwhile
    same(text_call(5, 400, rows=2))
    assert slots == [192, 320, 320, 512, 512, 512, 512, 512]
    for one in (engine, reference):
        one.cache.hold_round(4, 64)
    same(text_call(7, 0, rows=4))
    assert slots[-1] == 128
    same(text_call(900, 7))
    assert slots[-1] == 1000, "never more than the capacity"


@pytest.mark.parametrize("change", [with_cpu_attention, without_cuts])
def test_nothing_is_cut_for_the_attention(folder: Path, change: Callable[[bytes], bytes]) -> None:
    assert_nothing_is_cut(onnx.load_from_string(change((folder / "model.onnx").read_bytes())).graph)


def assert_nothing_is_cut(graph: onnx.GraphProto) -> None:
    written = {name for node in graph.node if node.op_type == "TensorScatter" for name in node.output}
    attention = [node for node in graph.node if node.op_type == "Attention"]
    assert len(attention) == SPEC.layers
    assert all(set(node.input[1:3]) <= written for node in attention)
    assert not [node for node in graph.node if node.op_type == "Slice" and node.input[0] in written]
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert all(tensor.name in read for tensor in graph.initializer)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])  # with and without heads that share keys; a window
def test_logits_are_the_same_to_the_bit_for_every_number_of_tokens_and_rows(family: str, tmp_path: Path) -> None:
    """Plain decoding feeds one token a row, verification several; both must write the same text."""
    model = tiny_model(family)
    folder, spec = save_checkpoint(tmp_path, model), measure_spec(model)
    export_graph(folder, spec)
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=64)
    engine.forward(text_call(10, 0, rows=3))
    expected_V = engine.forward(text_call(5, 10, rows=3))[0, 0].clone()
    for rows in (1, 2, 3):
        for tokens in (1, 2, 4):
            found_BTV = engine.forward(text_call(tokens, 10, rows=rows))
            assert torch.equal(found_BTV[:, 0], expected_V.expand(rows, -1)), f"{rows} rows of {tokens} tokens"


def test_a_copied_prefix_is_what_the_row_would_have_read_to_the_bit(folder: Path) -> None:
    """Short texts have made the cache small before the copy, and another one is read after it."""
    engine = OnnxRuntimeEngine(folder, SPEC, rows=4, capacity=1000)
    store = PrefixStore(engine.cache, 320)
    names = store.names([place % 250 for place in range(290)])
    engine.forward(text_call(300, 0, first_row=1))
    store.save(1, names)
    expected = engine.forward(text_call(12, 288, first_row=1)).clone()
    engine.cache.hold_round(4, 64)
    engine.forward(text_call(7, 0, rows=4))
    assert engine.cache.slots == 128
    assert store.load(2, names, 0) * BLOCK == 288
    for _ in range(2):
        engine.forward(text_call(3, 0, rows=2))
    assert torch.equal(engine.forward(text_call(12, 288, first_row=2)), expected)


def test_a_token_that_sees_nothing_gives_finite_logits(folder: Path) -> None:
    engine = OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=32)
    call = random_call(0)
    call.attention_mask_B1TL[0] = False
    assert bool(engine.forward(call).isfinite().all())


def test_the_cache_is_updated_where_it_stands(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    engine = OnnxRuntimeEngine(folder, SPEC, rows=3, capacity=32)
    for piece in engine.cache.pieces:
        piece.fill_(-5.0)
    addresses = [piece.data_ptr() for piece in engine.cache.pieces]
    engine.forward(random_call(0, rows=2, tokens=3, first_row=1, highest_slot=1))
    written_RS = (whole(engine.cache) != -5.0).all(dim=(0, 2, 4))
    expected_RS = torch.zeros((3, 32), dtype=torch.bool)
    expected_RS[1:, :3] = True
    assert [piece.data_ptr() for piece in engine.cache.pieces] == addresses
    assert torch.equal(written_RS, expected_RS)
    # ONNX Runtime prints a warning when it copies a cache. A session without bindings shows that it does print it.
    assert "copying past_cache" not in capfd.readouterr().err
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    call = random_call(0, rows=1)
    unbound = {
        "input_ids": call.input_ids_BT,
        "position_ids": call.position_ids_BT,
        "attention_mask": call.attention_mask_B1TL,
        "write_index": call.write_index_B,
        "logit_index": call.logit_index_BM,
        **dict.fromkeys(past_names(SPEC.layers), engine.cache.parts(0, 1)[0]),
    }
    session.run(None, {name: tensor.numpy() for name, tensor in unbound.items()})
    assert capfd.readouterr().err.count("copying past_cache") == 4


def test_logits_are_handed_out_without_a_copy_and_overwritten_by_the_next_call(folder: Path) -> None:
    engine = OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=32)
    first_BMV = engine.forward(random_call(0))
    kept_BMV = first_BMV.clone()
    second_BMV = engine.forward(random_call(1))
    assert first_BMV.data_ptr() == second_BMV.data_ptr()
    assert not torch.equal(first_BMV, kept_BMV)
    smaller_BMV = engine.forward(random_call(1, rows=1))
    assert smaller_BMV.data_ptr() == first_BMV.data_ptr()


def test_inputs_need_not_be_contiguous(folder: Path) -> None:
    engine = OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=32)
    call = random_call(0, tokens=3)
    expected_BMV = engine.forward(call).clone()
    strided = Call(
        call.input_ids_BT.t().contiguous().t(),
        call.position_ids_BT,
        call.attention_mask_B1TL.transpose(2, 3).contiguous().transpose(2, 3),
        call.write_index_B,
        call.logit_index_BM[:, :1].expand(-1, 2),
    )
    assert not strided.input_ids_BT.is_contiguous()
    assert not strided.logit_index_BM.is_contiguous()
    found_BMV = engine.forward(strided)
    torch.testing.assert_close(found_BMV[:, 0], expected_BMV[:, 0])


def test_a_call_beyond_the_capacity_is_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match="a row has 18"):
        OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=18).forward(random_call(0))


def test_a_token_outside_the_vocabulary_is_an_engine_error(folder: Path) -> None:
    call = random_call(0)
    call.input_ids_BT[0, 0] = 257
    with pytest.raises(EngineError, match="ONNX Runtime failed in a call"):
        OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=32).forward(call)


def test_the_number_of_threads_is_taken_over(folder: Path) -> None:
    engine = OnnxRuntimeEngine(folder, SPEC, rows=1, capacity=32, threads=1)
    assert engine._session.get_session_options().intra_op_num_threads == 1


def test_threads_spin_for_a_moment_only(folder: Path) -> None:
    options = OnnxRuntimeEngine(folder, SPEC, rows=1, capacity=32)._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.spin_duration_us") == "100"


def test_a_broken_graph_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(EngineError, match=r"cannot open .*model\.onnx") as caught:
        OnnxRuntimeEngine(tmp_path / "copy", SPEC, rows=1, capacity=32)
    assert "pip install 'spectr[cpu]'" in caught.value.hint


def test_weights_that_are_missing_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "model.onnx", tmp_path)
    with pytest.raises(EngineError, match=r"cannot open .*model\.safetensors"):
        OnnxRuntimeEngine(tmp_path, SPEC, rows=1, capacity=32)


def test_without_onnxruntime_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="ONNX Runtime cannot be imported") as caught:
        OnnxRuntimeEngine(folder, SPEC, rows=1, capacity=32)
    assert caught.value.hint == "Install it with `pip install 'spectr[cpu]'`."


def test_another_provider_than_asked_for_is_refused() -> None:
    check_providers(["CPUExecutionProvider"], "cpu")
    with pytest.raises(EngineError, match="offers AzureExecutionProvider; cpu needs CPUExecutionProvider"):
        check_providers(["AzureExecutionProvider"], "cpu")


def test_a_gpu_is_refused_where_onnxruntime_has_no_provider_for_it(folder: Path) -> None:
    with pytest.raises(EngineError, match="CPUExecutionProvider; cuda needs CUDAExecutionProvider") as caught:
        OnnxRuntimeEngine(folder, SPEC, rows=1, capacity=32, device="cuda:1")
    assert "pip install 'spectr[gpu]'" in caught.value.hint


def test_calls_are_bound_to_the_gpu_and_its_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the options that ONNX Runtime is given for CUDA, with PyTorch's memory on the CPU."""
    told: dict[str, Any] = {}

    def open_(graph: bytes, options: object, *, providers: Any) -> Any:
        told["graph"], told["providers"] = onnx.load_from_string(graph).graph, providers
        return SimpleNamespace(
            get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            io_binding=lambda: SimpleNamespace(
                bind_input=lambda name, *address: told.setdefault(name, address),
                bind_output=lambda name, *address: told.setdefault(name, address),
            ),
            run_with_iobinding=lambda binding: None,
        )

    allocate = engine_module.allocate_cache
    monkeypatch.setattr(
        engine_module, "allocate_cache", lambda *sizes, grows: allocate(*sizes[:3], torch.device("cpu"), grows=grows)
    )
    monkeypatch.setattr(engine_module, "Outputs", lambda spec, place: Outputs(spec, torch.device("cpu")))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place: SimpleNamespace(cuda_stream=4096))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_)
    engine = OnnxRuntimeEngine(folder, SPEC, rows=2, capacity=1000, device="cuda:1")
    logits_BMV = engine.forward(random_call(0, rows=1, first_row=1))
    assert told["providers"] == [("CUDAExecutionProvider", {"device_id": "1", "user_compute_stream": "4096"})]
    assert told["logits"] == ("cuda", 1, 1, tuple(logits_BMV.shape), logits_BMV.data_ptr())
    assert told["past_key_values.0.key"] == told["present.0.key"]
    assert told["past_key_values.0.key"][-1] == engine.cache.parts(1)[0].data_ptr()
    assert told["attention_mask"][3] == (1, 1, 3, 64)
    assert_nothing_is_cut(told["graph"])
    for length, slots in ((200, 256), (20, 64)):
        told.clear()
        engine.cache.hold_round(2, length)
        engine.forward(random_call(0, length=length))
        assert told["past_key_values.0.key"][3] == (2, SPEC.kv_heads, slots, SPEC.head_size)
        assert told["attention_mask"][3] == (2, 1, 3, slots)
        assert told["present.1.value"][-1] == engine.cache.parts()[3].data_ptr(), "the cache has moved"


@pytest.mark.parametrize("device", ["tensorrt", "TensorrtExecutionProvider", "tensorrt:0"])
def test_its_provider_for_tensorrt_is_refused_with_the_backend_that_runs_engines(folder: Path, device: str) -> None:
    with pytest.raises(UsageError, match=f"Backend onnxruntime runs on cpu, cuda or cuda:N; got '{device}'") as caught:
        OnnxRuntimeEngine(folder, SPEC, rows=1, capacity=32, device=device)
    assert "run engines with --backend tensorrt or tensorrt-rtx" in caught.value.hint
