"""Parity, greedy texts and TensorRT-RTX engines of every architecture that the tests export, as a table.

    python benchmarks/architectures.py

Runs the checks of ``tests/export/test_architectures.py`` on the same tiny random models and builds their engines for
compute capabilities 8.0, 8.9 and 12.0 (in fp8, for the latter two), which needs no GPU. Writes the result file and
prints its table.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine
from quoting.architectures import checked

from spectr_export.checks.parity import check_parity
from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_runtime import BundleError
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import rtx
from architectures import ARCHITECTURES, PROMPT, generated, greedy, largest_inputs
from tiny_models import POSITIONS, tiny_model

RESULT = Path(__file__).parent / "results" / "architectures.json"
TOKENS = 12
PRECISIONS = {
    "fp16": Precision("float16"),
    "bf16": Precision("bfloat16"),
    "int8": Precision("float16", "int8"),
    "int4": Precision("float16", "int4"),
    "fp8": Precision("float16", "fp8"),
}


def check(architecture: str) -> dict[str, Any]:
    """Export one architecture's tiny model, compare it with transformers and build its engines."""
    model = tiny_model(architecture)
    spec = measure_spec(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder)
        export_graph(folder, spec)
        engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=POSITIONS, threads=1)
        parity = check_parity(model, engine, name=architecture)
        text, expected = greedy(engine, PROMPT, TOKENS), generated(model, PROMPT, TOKENS)
    engines = {name: build(architecture, precision) for name, precision in PRECISIONS.items()}
    return {"architecture": architecture, "parity": parity, "equal_texts": text == expected, "engines": engines}


def build(architecture: str, precision: Precision) -> str:
    """Export and build in one precision: how attention is computed, or why the model cannot be stored so."""
    model = tiny_model(architecture, **rtx.WIDE)
    dtype, quantisation = precision.dtype, precision.quantisation
    spec = dataclasses.replace(measure_spec(model), dtype=dtype, quantisation=quantisation)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            save_model(model, folder, StoragePlan.of(model, precision), inputs=largest_inputs(model, precision))
        except BundleError as error:
            return f"refused: {error.message}"
        export_graph(folder, spec)
        built = rtx.build(folder, *(rtx.FP8_FLEET if quantisation == "fp8" else rtx.FLEET))
        rtx.check(built, folder, dtype, quantisation)
    return built.attention


@click.command()
@click.argument("architectures", nargs=-1, type=click.Choice(ARCHITECTURES))
@click.option("--output", default=RESULT, type=click.Path(path_type=Path, dir_okay=False), show_default=True)
def main(architectures: tuple[str, ...], output: Path) -> None:
    """Check ARCHITECTURES, all by default, and write the result file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [check(architecture) for architecture in architectures or ARCHITECTURES]
    result = machine() | {"lines": lines}
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(checked(result))


if __name__ == "__main__":
    main()
