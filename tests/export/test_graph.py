from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import uses_external_data
from safetensors.numpy import load_file
from tiny_models import Exported, tiny_model

from spectr_export.checks.parity import check_parity
from spectr_export.graph.export import export_graph
from spectr_export.storing.save import save_model
from spectr_export.weights import read_header
from spectr_runtime import BundleError, ModelSpec
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

FAMILIES = ("llama", "qwen2", "gpt2", "opt")


@pytest.mark.parametrize("family", FAMILIES)
def test_graph_is_the_contract_in_standard_operators(exported: Callable[[str], Exported], family: str) -> None:
    folder, _, spec = exported(family)
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    operators = Counter(node.op_type for node in graph.graph.node)
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", 24)]
    assert {node.domain for node in graph.graph.node} == {""}
    assert not graph.functions
    assert operators["Attention"] == spec.layers
    assert operators["TensorScatter"] == 2 * spec.layers
    onnx.checker.check_model(folder / "model.onnx")


def test_inputs_and_outputs_have_the_contracts_names_types_and_sizes(exported: Callable[[str], Exported]) -> None:
    folder, _, spec = exported("llama")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    assert {value.name: _type(value) for value in graph.input} == {
        "input_ids": ("int64", ["B", "T"]),
        "position_ids": ("int64", ["B", "T"]),
        "attention_mask": ("bool", ["B", 1, "T", "L"]),
        "write_index": ("int64", ["B"]),
        "logit_index": ("int64", ["B", "M"]),
        **{
            f"past_key_values.{layer}.{part}": ("float32", ["B", 2, "S", 8])
            for layer in range(2)
            for part in ("key", "value")
        },
    }
    assert [(value.name, _type(value)) for value in graph.output] == [
        ("logits", ("float32", ["B", "M", spec.vocabulary])),
        ("present.0.key", ("float32", ["B", 2, "S", 8])),
        ("present.0.value", ("float32", ["B", 2, "S", 8])),
        ("present.1.key", ("float32", ["B", 2, "S", 8])),
        ("present.1.value", ("float32", ["B", 2, "S", 8])),
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_set_of_weights_serves_transformers_and_onnx(exported: Callable[[str], Exported], family: str) -> None:
    folder, _, _ = exported(family)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.onnx", "model.safetensors"]
    stored = load_file(folder / "model.safetensors")
    names = {entry.offset: name for name, entry in read_header(folder / "model.safetensors").items()}
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    external = [tensor for tensor in graph.initializer if uses_external_data(tensor)]
    inline = [tensor for tensor in graph.initializer if not uses_external_data(tensor)]
    entries = [{entry.key: entry.value for entry in tensor.external_data} for tensor in external]
    assert {entry["location"] for entry in entries} == {"model.safetensors"}
    assert {names[int(entry["offset"])] for entry in entries} == set(stored)
    assert max(len(tensor.raw_data) for tensor in inline) < 1024
    loaded = onnx.load(folder / "model.onnx")
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in loaded.graph.initializer}
    for tensor, entry in zip(external, entries, strict=True):
        np.testing.assert_array_equal(weights[tensor.name], stored[names[int(entry["offset"])]])


def test_llama_uses_the_fused_operators_of_opset_23(exported: Callable[[str], Exported]) -> None:
    folder, _, spec = exported("llama")
    operators = Counter(node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)
    assert operators["RMSNormalization"] == 2 * spec.layers + 1
    assert operators["RotaryEmbedding"] == 2 * spec.layers
    assert operators["ReduceMean"] == 0


def test_graph_tells_nothing_of_the_machine_that_made_it(exported: Callable[[str], Exported]) -> None:
    folder, _, _ = exported("llama")
    content = (folder / "model.onnx").read_bytes()
    assert b".py" not in content
    assert str(folder).encode() not in content


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_on_the_graph_agrees_with_transformers(exported: Callable[[str], Exported], family: str) -> None:
    folder, model, spec = exported(family)
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, threads=1)
    parity = check_parity(model, engine, name=family)
    assert set(parity) == {"prefill", "tree", "steps"}
    assert 0 < max(parity.values()) < 1e-4


def test_tied_embeddings_are_stored_once(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    save_model(model, tmp_path)
    export_graph(tmp_path, ModelSpec("llama", 2, 2, 8, model.config.vocab_size, 128))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert sum(entry.length for entry in read_header(tmp_path / "model.safetensors").values()) == 4 * parameters
    engine = OnnxRuntimeEngine(tmp_path, ModelSpec("llama", 2, 2, 8, model.config.vocab_size, 128), rows=3, capacity=64)
    check_parity(model, engine, name="tied")


def test_a_model_whose_weights_are_not_all_there_is_refused(tmp_path: Path) -> None:
    tied = tiny_model("gpt2")
    save_model(tied, tmp_path)
    tied.config.tie_word_embeddings = False
    tied.config.save_pretrained(tmp_path)
    with pytest.raises(BundleError, match=r"lacks the weights \['lm_head\.weight'\]"):
        export_graph(tmp_path, ModelSpec("gpt2", 2, 4, 8, tied.config.vocab_size, 128))


def _type(value: onnx.ValueInfoProto) -> tuple[str, list[str | int]]:
    tensor = value.type.tensor_type
    sizes = [dimension.dim_param or dimension.dim_value for dimension in tensor.shape.dim]
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))), sizes
