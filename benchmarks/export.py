"""Exporting and calling a model: spectr's graph, transformers eager, and the graph of onnxruntime-genai's own builder.

    python benchmarks/export.py                       # the demo target and a random llama of 100 M parameters
    python benchmarks/export.py --model demo --repeats 5 --output small.json

Each exporter is a command of its own, whose wall-clock time (imports among it) and peak memory are taken. Then all
three hold the same 256 tokens in their caches of 512 and are called in turn, the order turning, with the same B rows of
T tokens behind them. Every call asks for all logits, and those are compared with transformers'. Reported are medians
over the repeats, and of the ratio to transformers in the same repeat with its 10th and 90th percentile.
"""

# B rows, T tokens fed, P tokens before them, S slots, V vocabulary.
from __future__ import annotations

import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime
import torch
from machine import machine
from transformers import AutoModelForCausalLM

from spectr_export.graph.export import export_graph
from spectr_export.original.model import load_stored, measure_spec
from spectr_export.storing.save import save_model
from spectr_runtime import Call, ModelSpec
from spectr_runtime.bundle.layout import GRAPH
from spectr_runtime.contract.mask import block_mask, triangle
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

PAIR = Path(__file__).parent.parent / "examples" / "demo_pair"
SHAPES = ((1, 1), (1, 8), (8, 1), (8, 8))
PREFIX, CAPACITY, ROWS = 256, 512, 8
LLAMA_100M = {
    "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 4, "vocab_size": 16_000, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip


@dataclasses.dataclass(slots=True)
class Runner:
    """One of the compared ways to run a model.

    Attributes:
        prepare: Fills the caches of B rows with the prefix.
        call: Feeds B rows of T tokens behind it and gives the logits [B, T, V].
        restore: Takes the fed tokens away again, untimed.
    """

    prepare: Callable[[torch.Tensor], None]
    call: Callable[[torch.Tensor], torch.Tensor]
    restore: Callable[[], None]


def spectr_runner(folder: Path, spec: ModelSpec) -> Runner:
    """The engine of the product; a call writes the same slots again."""
    engine = OnnxRuntimeEngine(folder, spec, rows=ROWS, capacity=CAPACITY)

    def feed(ids_BT: torch.Tensor, start: int) -> torch.Tensor:
        rows, tokens = ids_BT.shape
        start_B, column_T = torch.full((rows,), start), torch.arange(tokens)
        mask_B1TL = block_mask(start_B, triangle(tokens, ids_BT.device), start + tokens)
        positions_BT = (start + column_T).expand(rows, -1).contiguous()
        return engine.forward(Call(ids_BT, positions_BT, mask_B1TL, start_B, column_T.repeat(rows, 1)))

    return Runner(lambda ids_BP: void(feed(ids_BP, 0)), lambda ids_BT: feed(ids_BT, PREFIX), lambda: None)


def transformers_runner(model: Any) -> Runner:
    """The original model with its own eager attention and growing cache."""
    cache: Any = None

    def prepare(ids_BP: torch.Tensor) -> None:
        nonlocal cache
        cache = model(input_ids=ids_BP, use_cache=True).past_key_values

    def call(ids_BT: torch.Tensor) -> torch.Tensor:
        return model(input_ids=ids_BT, past_key_values=cache, use_cache=True).logits  # type: ignore[no-any-return]

    return Runner(prepare, call, lambda: void(cache.crop(PREFIX - cache.get_seq_length())))


def genai_runner(folder: Path, spec: ModelSpec) -> Runner:
    """The graph of onnxruntime-genai's builder, its past and present bound to one buffer as its own runtime does."""
    options = onnxruntime.SessionOptions()
    # As spectr's engine has it: threads that spin for longer would burn the cores of whoever is called next.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    session = onnxruntime.InferenceSession(folder / GRAPH, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    buffers: dict[str, Any] = {}

    def feed(ids_BT: torch.Tensor, start: int) -> torch.Tensor:
        rows, tokens = ids_BT.shape
        binding = session.io_binding()
        seen = np.ones((rows, start + tokens), dtype=np.int64)
        positions = np.tile(np.arange(start, start + tokens), (rows, 1))
        given = {"input_ids": ids_BT.numpy(), "attention_mask": seen, "position_ids": positions}
        for name in set(names) & set(given):
            binding.bind_cpu_input(name, given[name])
        for name, buffer in buffers.items():
            binding.bind_ortvalue_input(name, buffer)
            binding.bind_ortvalue_output(name.replace("past_key_values", "present"), buffer)
        binding.bind_output("logits", "cpu")
        session.run_with_iobinding(binding)
        return torch.from_numpy(binding.get_outputs()[-1].numpy())

    def prepare(ids_BP: torch.Tensor) -> None:
        shape = (len(ids_BP), spec.kv_heads, CAPACITY, spec.head_size)
        for name in names:
            if name.startswith("past"):
                buffers[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32))
        feed(ids_BP, 0)

    return Runner(prepare, lambda ids_BT: feed(ids_BT, PREFIX), lambda: None)


def void(_result: object) -> None:
    """Drop a result."""


@torch.inference_mode()
def measure_calls(runners: dict[str, Runner], vocabulary: int, repeats: int) -> list[dict[str, object]]:
    """One line per shape and runner, interleaved; a runner that fails on a shape or answers wrongly is said to."""
    generator = torch.Generator().manual_seed(0)
    lines: list[dict[str, object]] = []
    for rows, tokens in SHAPES:
        ids_BP = torch.randint(vocabulary, (rows, PREFIX), generator=generator)
        ids_BT = torch.randint(vocabulary, (rows, tokens), generator=generator)
        differences, failures = check_runners(runners, ids_BP, ids_BT)
        sound = {name: runner for name, runner in runners.items() if name not in failures}
        milliseconds = interleave(sound, ids_BT, repeats)
        for name in runners:
            line: dict[str, object] = {"runner": name, "B": rows, "T": tokens}
            if name in failures:
                lines.append(line | {"failure": failures[name]})
                continue
            ratios = [base / own for own, base in zip(milliseconds[name], milliseconds["transformers"], strict=True)]
            low, *_, high = statistics.quantiles(ratios, n=10)
            lines.append(
                line
                | {
                    "milliseconds": round(statistics.median(milliseconds[name]), 3),
                    "times_transformers": round(statistics.median(ratios), 2),
                    "percentiles_10_90": [round(low, 2), round(high, 2)],
                    "largest_difference": differences[name],
                }
            )
    return lines


def check_runners(
    runners: dict[str, Runner], ids_BP: torch.Tensor, ids_BT: torch.Tensor
) -> tuple[dict[str, float], dict[str, str]]:
    """Fill the caches, and compare every runner's logits with transformers'."""
    differences: dict[str, float] = {}
    failures: dict[str, str] = {}
    runners["transformers"].prepare(ids_BP)
    expected_BTV = runners["transformers"].call(ids_BT).clone()
    runners["transformers"].restore()
    for name, runner in runners.items():
        try:
            runner.prepare(ids_BP)
            differences[name] = float((runner.call(ids_BT) - expected_BTV).abs().max())
            runner.restore()
        except Exception as error:  # ONNX Runtime's errors share no public base
            failures[name] = str(error).strip().splitlines()[0]
            continue
        if differences[name] > 1e-2:
            failures[name] = f"wrong logits: they differ from transformers' by {differences[name]:.2g}"
    return differences, failures


def interleave(runners: dict[str, Runner], ids_BT: torch.Tensor, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of every call, after one that is not counted."""
    milliseconds: dict[str, list[float]] = {name: [] for name in runners}
    for repeat in range(repeats + 1):
        turn = list(runners.items())
        turn = turn[repeat % len(turn) :] + turn[: repeat % len(turn)]
        for name, runner in turn:
            started = time.perf_counter()
            runner.call(ids_BT)
            if repeat:
                milliseconds[name].append(1000 * (time.perf_counter() - started))
            runner.restore()
    return milliseconds


def measure_export(command: list[str], folder: Path) -> dict[str, object]:
    """Run an exporter; what it took and what it made."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{' '.join(command)} failed: {said.strip().splitlines()[-1]}")
    seconds, graph = time.perf_counter() - started, onnx.load(folder / GRAPH, load_external_data=False)
    return {
        "seconds": round(seconds, 1),
        "peak_memory_mb": round(peak_bytes(usage) / 1e6),
        "megabytes": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1),
        "nodes": len(graph.graph.node),
    }


def peak_bytes(usage: resource.struct_rusage) -> int:
    """Linux counts kibibytes."""
    return usage.ru_maxrss * 1024


def write_llama(folder: Path) -> Path:
    """A random llama of 100 million parameters, with the demo tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**LLAMA_100M, bos_token_id=0, eos_token_id=0, pad_token_id=0)).save_pretrained(
            folder
        )
    AutoTokenizer.from_pretrained(PAIR / "target").save_pretrained(folder)
    return folder


def measure_model(name: str, source: Path, here: Path, repeats: int) -> dict[str, object]:
    """All figures of one model."""
    folders = {"spectr": here / "spectr", "genai": here / "genai"}
    commands = {
        "spectr": [sys.executable, __file__, "--worker", str(source), str(folders["spectr"])],
        "genai": [
            sys.executable, "-m", "onnxruntime_genai.models.builder",
            "-i", str(source), "-o", str(folders["genai"]), "-p", "fp32", "-e", "cpu", "-c", str(here / "cache"),
        ],
    }  # fmt: skip
    exports = {tool: measure_export(command, folders[tool]) for tool, command in commands.items()}
    click.echo(f"{name}: {json.dumps(exports)}", err=True)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    spec = measure_spec(model)
    runners = {
        "transformers": transformers_runner(model),
        "spectr": spectr_runner(folders["spectr"], spec),
        "genai": genai_runner(folders["genai"], spec),
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    calls = measure_calls(runners, spec.vocabulary, repeats)
    return {"model": name, "parameters": parameters, "exports": exports, "calls": calls}


def export_one(source: Path, folder: Path) -> None:
    """What a build does to one model, without its checks."""
    stored = load_stored(source)
    spec = measure_spec(stored.model)
    save_model(stored.model, folder, weights=stored.weights)
    export_graph(folder, spec)


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(["demo", "llama-100m"]), help="Default: both.")
@click.option("--repeats", default=30, help="Interleaved repeats of every call.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "export.json")
@click.option("--worker", nargs=2, type=click.Path(path_type=Path), hidden=True)
def main(models: tuple[str, ...], repeats: int, output: Path, worker: tuple[Path, Path] | None) -> None:
    """Measure and write the result file."""
    if worker is not None:
        export_one(*worker)
        return
    results = []
    for name in models or ("demo", "llama-100m"):
        with tempfile.TemporaryDirectory() as temporary:
            here = Path(temporary)
            source = PAIR / "target" if name == "demo" else write_llama(here / "source")
            results.append(measure_model(name, source, here, repeats))
    output.write_text(
        json.dumps(
            machine() | {"prefix": PREFIX, "capacity": CAPACITY, "repeats": repeats, "models": results}, indent=1
        )
        + "\n",
        encoding="utf-8",
    )
    for result in results:
        for line in result["calls"]:  # type: ignore[attr-defined]
            figures = line.get("failure") or f"{line['milliseconds']:>8} ms  x{line['times_transformers']}"
            click.echo(f"{result['model']:<12} {line['runner']:<13} B={line['B']} T={line['T']}  {figures}")


if __name__ == "__main__":
    main()
