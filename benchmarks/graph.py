"""What each step of simplifying a traced graph saves, how attention is best written, and what tracing takes.

    python benchmarks/graph.py

The first part exports a Llama of random weights, stops after each step, and reports nodes and the time of a call of
ONNX Runtime. The second runs attention alone, as the operator and as its parts, over calls and attention lengths. The
third exports Llamas of more and more layers, as they are and with every layer traced and all of onnxscript's rules, and
reports seconds of processor time. All variants of a part take turns within one repeat; reported are medians.
"""

# B rows, T tokens fed, L attention length, Hq/Hk query/key heads, S slots, D head size.
from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import onnx
import onnxruntime
import torch
from machine import machine
from onnx import TensorProto, helper, numpy_helper
from onnxscript import optimizer

from spectr_export.graph import export as graph
from spectr_export.graph import fusion, tracing
from spectr_export.graph.kinds import Pattern
from spectr_export.original.model import measure_spec
from spectr_export.storing.save import save_model
from spectr_runtime import Call
from spectr_runtime.contract import OPSET
from spectr_runtime.contract.mask import block_mask, triangle
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from tiny_models import tiny_model

RESULT = Path(__file__).parent / "results" / "graph.json"
CALLS = ((1, 1), (1, 8), (8, 1), (8, 8))
LENGTHS = (64, 256, 1024)
SLOTS = 1024
DEPTHS = (2, 4, 8, 16, 32)
EXPORTS = 3
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "vocab_size": 8192,
    "max_position_embeddings": SLOTS,
}
# What is left out of the steps of ``fusion.simplify``, from all of it on.
STEPS: Mapping[str, tuple[str, ...]] = {
    "folded": ("fuse", "merge_products", "fix_reshapes"),
    "fused": ("merge_products", "fix_reshapes"),
    "joined": ("fix_reshapes",),
    "whole": (),
}


def nothing(*_args: object, **_options: object) -> None:
    """Stands for a step that is left out."""


def export_steps(root: Path) -> tuple[Any, dict[str, Path]]:
    """The graph after each step; every folder links to one file of weights."""
    model = tiny_model("llama", **SIZES)
    spec, folders, made = measure_spec(model), {name: root / name for name in STEPS}, root / "made"
    made.mkdir()
    save_model(model, made)
    for name, folder in folders.items():
        with contextlib.ExitStack() as left_out:
            for step in STEPS[name]:
                left_out.enter_context(mock.patch.object(fusion, step, nothing))
            graph.export_graph(made, spec)
        folder.mkdir()
        (made / "model.onnx").rename(folder / "model.onnx")
    for folder in folders.values():
        (folder / "model.safetensors").hardlink_to(made / "model.safetensors")
    return spec, folders


def make_call(rows: int, tokens: int, length: int) -> Call:
    """The last tokens of texts that fill the attention length."""
    start_B = torch.full((rows,), length - tokens)
    return Call(
        input_ids_BT=torch.zeros((rows, tokens), dtype=torch.int64),
        position_ids_BT=start_B[:, None] + torch.arange(tokens),
        attention_mask_B1TL=block_mask(start_B, triangle(tokens, torch.device("cpu")), length),
        write_index_B=start_B,
        logit_index_BM=torch.arange(tokens).repeat(rows, 1),
    )


def measure(variants: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median milliseconds of each variant; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 1):
        for name in list(variants)[:: 1 if repeat % 2 else -1]:
            started = time.perf_counter()
            variants[name]()
            times[name].append(time.perf_counter() - started)
    # The first turn warms up.
    return {name: round(1e3 * statistics.median(values[1:]), 3) for name, values in times.items()}


def measure_steps(repeats: int, threads: int) -> Iterator[dict[str, Any]]:
    """Nodes and call times after each step."""
    with tempfile.TemporaryDirectory() as name:
        spec, folders = export_steps(Path(name))
        nodes = {
            step: len(onnx.load(path / "model.onnx", load_external_data=False).graph.node)
            for step, path in folders.items()
        }
        yield {"nodes": nodes}
        engines = {
            step: OnnxRuntimeEngine(folder, spec, rows=8, capacity=SLOTS, threads=threads)
            for step, folder in folders.items()
        }
        for rows, tokens in CALLS:
            call = make_call(rows, tokens, 256)
            variants = {step: lambda engine=engine, call=call: engine.forward(call) for step, engine in engines.items()}
            yield {"rows": rows, "tokens": tokens, "length": 256, "milliseconds": measure(variants, repeats)}


def attention_forms(query_heads: int, key_heads: int, size: int) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    """Nodes behind the sliced cache, and their constants: the operator, and its parts with the heads grouped."""
    node, scale = helper.make_node, np.float32(size**-0.5)
    parts = [
        node("Mul", ["query", "scale"], ["scaled"]),
        node("Reshape", ["scaled", "grouped"], ["query5"]),
        node("Unsqueeze", ["keys", "two"], ["keys5"]),
        node("Transpose", ["keys5"], ["turned"], perm=[0, 1, 2, 4, 3]),
        node("Unsqueeze", ["values", "two"], ["values5"]),
        node("Unsqueeze", ["mask", "two"], ["mask5"]),
        node("MatMul", ["query5", "turned"], ["scores"]),
        node("Where", ["mask5", "scores", "hidden"], ["masked"]),
        node("Softmax", ["masked"], ["weights"]),
        node("MatMul", ["weights", "values5"], ["output5"]),
        node("Reshape", ["output5", "flat"], ["output"]),
    ]
    constants = {
        "scale": scale,
        "hidden": np.float32(-1e4),
        "grouped": np.array([0, key_heads, query_heads // key_heads, -1, size]),
        "flat": np.array([0, query_heads, -1, size]),
    }
    operator = [node("Attention", ["query", "keys", "values", "mask"], ["output"], scale=float(scale))]
    return {"operator": (operator, {}), "parts": (parts, constants)}


def open_attention(nodes: list[Any], constants: Mapping[str, Any], heads: tuple[int, int, int], threads: int) -> Any:
    """A session of attention over the first L slots of a cache."""
    query_heads, key_heads, size = heads
    value = helper.make_tensor_value_info
    inputs = [
        value("query", TensorProto.FLOAT, ["B", query_heads, "T", size]),
        value("past_keys", TensorProto.FLOAT, ["B", key_heads, SLOTS, size]),
        value("past_values", TensorProto.FLOAT, ["B", key_heads, SLOTS, size]),
        value("mask", TensorProto.BOOL, ["B", 1, "T", "L"]),
        value("length", TensorProto.INT64, [1]),
    ]
    output = value("output", TensorProto.FLOAT, ["B", query_heads, "T", size])
    slices = [
        helper.make_node("Slice", [f"past_{part}", "zero", "length", "two"], [part]) for part in ("keys", "values")
    ]
    tensors = {"zero": np.array([0]), "two": np.array([2]), **constants}
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    made = helper.make_graph([*slices, *nodes], "attention", inputs, [output], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure_attention(repeats: int, threads: int) -> Iterator[dict[str, Any]]:
    """Attention alone, as the operator and in parts."""
    random = np.random.default_rng(0)
    for heads in ((12, 4, 64), (12, 12, 64)):
        forms = attention_forms(*heads)
        sessions = {name: open_attention(*form, heads, threads) for name, form in forms.items()}
        for (rows, tokens), length in itertools.product(CALLS, LENGTHS):
            shapes = {"query": (heads[0], tokens), "past_keys": (heads[1], SLOTS), "past_values": (heads[1], SLOTS)}
            feeds: dict[str, Any] = {
                name: random.normal(size=(rows, *shape, heads[2])).astype(np.float32) for name, shape in shapes.items()
            }
            mask_TL = np.tri(tokens, length, length - tokens, dtype=bool)
            feeds |= {"mask": np.repeat(mask_TL[None, None], rows, 0), "length": np.array([length])}
            outputs = [session.run(None, feeds)[0] for session in sessions.values()]
            np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
            variants = {name: lambda one=one, feeds=feeds: one.run(None, feeds) for name, one in sessions.items()}
            yield {
                "query_heads": heads[0],
                "key_heads": heads[1],
                "head_size": heads[2],
                "rows": rows,
                "tokens": tokens,
                "length": length,
                "milliseconds": measure(variants, repeats),
            }


def measure_tracing(repeats: int, depths: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Processor time of writing a graph, by layers; a repeat takes minutes, so there are ``EXPORTS`` at most."""
    for layers in depths:
        with tempfile.TemporaryDirectory() as name:
            model, folder = tiny_model("llama", num_hidden_layers=layers), Path(name)
            save_model(model, folder)
            spec = measure_spec(model)
            times: dict[str, list[float]] = {"whole": [], "repeated": []}
            for _ in range(min(repeats, EXPORTS)):
                for variant, taken in times.items():
                    with tracing_whole() if variant == "whole" else contextlib.nullcontext():
                        started = time.process_time()
                        graph.export_graph(folder, spec)
                        taken.append(time.process_time() - started)
        yield {"layers": layers, "seconds": {name: round(statistics.median(taken), 2) for name, taken in times.items()}}


@contextlib.contextmanager
def tracing_whole() -> Iterator[None]:
    """Trace every layer and apply all of onnxscript's rules."""

    def find_none(_model: object, layers: int) -> Pattern:
        return Pattern("", layers)

    def fold(model: Any, weights: set[str]) -> None:
        def should_fold(node: Any) -> bool | None:
            return False if any(value is not None and value.name in weights for value in node.inputs) else None

        optimizer.optimize_ir(model, should_fold=should_fold)

    with mock.patch.object(tracing, "find_pattern", find_none), mock.patch.object(fusion, "fold", fold):
        yield


@click.command()
@click.option("--repeats", default=30, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option(
    "--layers", "depths", multiple=True, type=int, default=DEPTHS, show_default=True, help="Of what is traced."
)
@click.option("--output", default=RESULT, type=click.Path(path_type=Path, dir_okay=False), show_default=True)
def main(repeats: int, threads: int, depths: tuple[int, ...], output: Path) -> None:
    """Measure and write the result file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    result: dict[str, Any] = machine() | {"repeats": repeats, "threads": threads, "sizes": SIZES}
    parts = {
        "steps": measure_steps(repeats, threads),
        "attention": measure_attention(repeats, threads),
        "tracing": measure_tracing(repeats, depths),
    }
    for part, lines in parts.items():
        result[part] = []
        for line in lines:
            result[part].append(line)
            click.echo(f"{part} {line}")
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
