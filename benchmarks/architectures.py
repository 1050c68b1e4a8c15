"""Parity and greedy texts of every architecture that the tests export, as a table.

    python benchmarks/architectures.py

Runs the checks of ``tests/export/test_architectures.py`` on the same tiny random models and writes the result file and
the table of the README, which a test compares with it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_export.graph import export_graph
from spectr_export.model import measure_spec, save_model
from spectr_export.parity import check_parity
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from architectures import ARCHITECTURES, PROMPT, generated, greedy, table
from tiny_models import POSITIONS, tiny_model

RESULT = Path(__file__).parent / "results" / "architectures.json"
TOKENS = 12


def check(architecture: str) -> dict[str, Any]:
    """Export one architecture's tiny model and compare it with transformers."""
    model = tiny_model(architecture)
    spec = measure_spec(model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(model, folder)
        export_graph(folder, spec)
        engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=POSITIONS, threads=1)
        parity = check_parity(model, engine, name=architecture)
        text, expected = greedy(engine, PROMPT, TOKENS), generated(model, PROMPT, TOKENS)
    return {"architecture": architecture, "parity": parity, "equal_texts": text == expected}


@click.command()
@click.argument("architectures", nargs=-1, type=click.Choice(ARCHITECTURES))
@click.option("--output", default=RESULT, type=click.Path(path_type=Path, dir_okay=False), show_default=True)
def main(architectures: tuple[str, ...], output: Path) -> None:
    """Check ARCHITECTURES, all by default, and write the result file."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = [check(architecture) for architecture in architectures or ARCHITECTURES]
    output.write_text(json.dumps(machine() | {"lines": lines}, indent=1) + "\n", encoding="utf-8")
    click.echo(table(lines))


if __name__ == "__main__":
    main()
