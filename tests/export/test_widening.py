"""A half-precision graph is rewritten to float32, each weight cast right before the node that needs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
from onnx import TensorProto
from tiny_models import tiny_model

from spectr_export.checks.widening import MOVES, WIDE, widen
from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model


def test_numbers_are_widened_behind_what_only_moves_them_and_for_one_reader_each(tmp_path: Path) -> None:
    model = tiny_model("llama")
    save_model(model, tmp_path, StoragePlan.of(model, Precision("bfloat16")))
    export_graph(tmp_path, dataclasses.replace(measure_spec(model), dtype="bfloat16"))
    graph = onnx.load_from_string(widen(tmp_path / "model.onnx")).graph
    stored = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.BFLOAT16}
    casts = {node.output[0]: index for index, node in enumerate(graph.node) if f"{WIDE}." in node.output[0]}
    assert casts
    assert stored
    for name, index in casts.items():
        readers = [number for number, node in enumerate(graph.node) if name in node.input]
        assert len(readers) == 1
        # Only casts for the same reader may stand between a cast and its reader.
        assert all(graph.node[number].op_type == "Cast" for number in range(index + 1, readers[0]))
    direct = [node.op_type for node in graph.node for name in node.input if name in stored]
    assert {"Gather", "Transpose"} <= set(direct) <= {*MOVES, "Cast"}
