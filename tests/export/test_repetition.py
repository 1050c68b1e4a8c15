from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnxscript import ir
from tiny_models import WINDOW, tiny_model

from spectr_export.graph import tracing
from spectr_export.graph.export import export_graph
from spectr_export.graph.kinds import Pattern, find_pattern, shortened
from spectr_export.graph.repetition import repeat_layers
from spectr_export.original.model import load_original, measure_spec
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_runtime import ModelSpec
from spectr_runtime.adapter import model as model_module
from spectr_runtime.adapter.attention import attend
from spectr_runtime.adapter.model import ContractModel

SLIDING, FULL = "sliding_attention", "full_attention"
# Models with one and with two kinds of layers, and the number of layers that are traced.
DEEP: dict[str, tuple[dict[str, Any], int]] = {
    "opt": ({"num_hidden_layers": 4}, 3),
    "gemma3_text": ({"num_hidden_layers": 5, "layer_types": [SLIDING, FULL, SLIDING, FULL, SLIDING]}, 4),
}


def saved(folder: Path, family: str, **changes: Any) -> ModelSpec:
    """Write the folder of a model, without its graph, and return the model's sizes."""
    model = tiny_model(family, **changes)
    save_model(model, folder)
    return measure_spec(model)


def nodes(path: Path) -> list[Any]:
    """Return the nodes of a graph in order, each input as a weight's offset, a constant, or the node that makes it."""
    graph = onnx.load(path, load_external_data=False).graph
    known: dict[str, Any] = {"": None} | {value.name: value.name for value in graph.input}
    for tensor in graph.initializer:
        known[tensor.name] = (tensor.data_type, *tensor.dims, tensor.raw_data, *map(str, tensor.external_data))
    shapes = {value.name: value.type.SerializeToString() for value in (*graph.value_info, *graph.output)}
    told = []
    for index, node in enumerate(graph.node):
        attributes = sorted(attribute.SerializeToString() for attribute in node.attribute)
        inputs, outputs = [known[name] for name in node.input], [shapes.get(name) for name in node.output]
        told.append((node.op_type, attributes, inputs, outputs))
        known |= {name: (index, number) for number, name in enumerate(node.output)}
    inputs = [(value.name, value.type.SerializeToString()) for value in graph.input]
    return [*told, inputs, [(value.name, known[value.name]) for value in graph.output]]


@pytest.mark.parametrize("family", DEEP)
def test_a_graph_of_repeated_layers_is_the_one_whose_layers_were_all_traced(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, traced = DEEP[family]
    spec = saved(tmp_path, family, **changes)
    assert find_pattern(ContractModel(load_original(tmp_path)), spec.layers).traced == traced
    export_graph(tmp_path, spec)
    repeated = nodes(tmp_path / "model.onnx")
    monkeypatch.setattr(tracing, "find_pattern", lambda _model, layers: Pattern("", layers))
    export_graph(tmp_path, spec)
    assert repeated == nodes(tmp_path / "model.onnx")


def test_layers_that_reckon_with_their_index_are_all_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attend_by_layer(module: Any, *inputs: Any, **options: Any) -> Any:
        return attend(module, *inputs, **options | {"scaling": options["scaling"] * (module.layer_idx + 1)})

    monkeypatch.setattr(model_module, "attend", attend_by_layer)
    export_graph(tmp_path, saved(tmp_path, "llama", num_hidden_layers=4))
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    scales = [node.attribute[0].f for node in graph.node if node.op_type == "Attention"]
    assert scales == pytest.approx([index * scales[0] for index in (1, 2, 3, 4)])


def test_a_graph_without_the_layers_is_left_alone() -> None:
    assert not repeat_layers(ir.Graph([], [], nodes=[]), Pattern("elsewhere", 3, [1], (1, 2)))


@pytest.mark.parametrize(
    ("types", "traced", "templates", "twins"),
    [
        ([FULL] * 5, 3, [1, 1], (1, 2)),
        ([FULL] * 3, 3, [], (0, 0)),
        ([SLIDING, FULL, SLIDING, FULL, SLIDING], 4, [2], (1, 3)),
        ([SLIDING, SLIDING, SLIDING, FULL, SLIDING, SLIDING, FULL], 4, [1, 1, 3], (1, 2)),
        ([FULL, FULL, FULL, FULL, SLIDING], 5, [], (0, 0)),
    ],
)
def test_every_kind_of_layer_is_traced_and_one_of_them_twice(
    types: list[str], traced: int, templates: list[int], twins: tuple[int, int]
) -> None:
    sizes = {"num_hidden_layers": len(types), "layer_types": types, "sliding_window": WINDOW}
    model = ContractModel(tiny_model("qwen2", use_sliding_window=True, **sizes))
    found = find_pattern(model, len(types))
    assert (found.path, found.traced, list(found.templates), found.twins) == (
        "model.model.layers",
        traced,
        templates,
        twins,
    )


def test_a_layer_whose_modules_differ_is_of_another_kind() -> None:
    model = ContractModel(tiny_model("llama", num_hidden_layers=4))
    assert list(find_pattern(model, 4).templates) == [1]
    model.model.model.layers[3].mlp.act_fn = torch.nn.GELU()
    assert list(find_pattern(model, 4).templates) == []


def test_a_layer_whose_buffers_differ_is_of_another_kind() -> None:
    model = ContractModel(tiny_model("llama", num_hidden_layers=4))
    for layer in model.model.model.layers:
        layer.register_buffer("scale", torch.ones(1))
    assert list(find_pattern(model, 4).templates) == [1]
    model.model.model.layers[3].scale += 1
    assert list(find_pattern(model, 4).templates) == []


def test_a_shortened_model_is_whole_again() -> None:
    model = ContractModel(tiny_model("llama", num_hidden_layers=5))
    names = [name for name, _ in model.named_modules()]
    with shortened(model, find_pattern(model, 5)):
        assert len(model.model.model.layers) == 3
    assert [name for name, _ in model.named_modules()] == names


def test_a_quantised_copy_is_traced_with_its_model_and_another_model_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced: list[str] = []
    trace = tracing.trace

    def counted(model: ContractModel, spec: ModelSpec) -> ir.Model:
        traced.append(f"{spec.layers} layers")
        return trace(model, spec)

    monkeypatch.setattr(tracing, "trace", counted)
    tracer = tracing.Tracer()
    models = [tiny_model("llama"), tiny_model("llama"), tiny_model("llama", num_hidden_layers=3)]
    for number, (model, quantisation) in enumerate(zip(models, ("int8", "none", "none"), strict=True)):
        folder, spec = tmp_path / str(number), measure_spec(model)
        save_model(model, folder, StoragePlan.of(model, Precision("float32", quantisation)))
        export_graph(folder, dataclasses.replace(spec, quantisation=quantisation), tracer)
    assert traced == ["2 layers", "3 layers"]
    alone = (tmp_path / "1" / "model.onnx").read_bytes()
    export_graph(tmp_path / "1", measure_spec(models[1]))
    assert (tmp_path / "1" / "model.onnx").read_bytes() == alone
