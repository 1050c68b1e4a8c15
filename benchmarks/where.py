"""What has run where: docs/where-it-ran.md, made from the heads of all result files.

python benchmarks/where.py          # writes the document
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
DOCUMENT = HERE.parent / "docs" / "where-it-ran.md"
PREDICTED = "gpu_predicted"
SHOWN = ("spectr", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "tensorrt-rtx")
BEGINNING = """# What has run where

Every result file under [`benchmarks/results/`](../benchmarks/results) names its machine, and the state of the code that
was measured, as a commit; a plus sign says that there were changes beside it. This page is made of these files by
[`where.py`](../benchmarks/where.py), and a test holds it equal to them. {gpus}
What each script found is in [what was measured](benchmarks.md).

| machine | date | state | result | what | versions |
|---|---|---|---|---|---|"""
NO_GPU = """**Nothing has run on a GPU yet**; what one should
give is foretold in [a page of its own](../benchmarks/results/gpu_predicted.md), and
[`gpu.py`](../benchmarks/gpu.py) measures it in a quarter of an hour ([how](speed.md#a-day-on-a-gpu))."""
GPUS = """On a GPU ran what stands first."""


def document() -> str:
    """Return the document."""
    lines = sorted({line for path in (HERE / "results").glob("*.json") for line in lines_of(path)})
    on_gpus = [line for line in lines if line[0] == 0]
    table = "\n".join(line for _, line in lines)
    return f"{BEGINNING.format(gpus=GPUS if on_gpus else NO_GPU)}\n{table}\n"


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a result file, one for each machine and date in it; GPUs come first."""
    what = docstring(HERE / f"{'gpu' if path.stem.startswith('gpu') else path.stem}.py")
    for head in heads(json.loads(path.read_text(encoding="utf-8"))):
        gpu = head.get("gpu")
        machine = f"{gpu['name']}, {gpu['memory']}" if gpu else f"{head['processor']}, {head['cores']} cores"
        told = f"foretold: {what}" if path.stem == PREDICTED else what
        versions = [f"{name} {head['versions'][name]}" for name in SHOWN if name in head["versions"]]
        found = f"Python {head['python']}, {', '.join(versions)}"
        name = f"[`{path.name}`](../benchmarks/results/{path.name})"
        when = f"{head['date']} | {head.get('revision', 'not recorded')}"
        yield 0 if gpu else 1, f"| {machine} | {when} | {name} | {told} | {found} |"


def heads(result: Any) -> Iterator[Mapping[str, Any]]:
    """Yield every head in a result, wherever it stands."""
    if isinstance(result, dict):
        if "processor" in result and "date" in result:
            yield result
        for value in result.values():
            yield from heads(value)
    elif isinstance(result, list):
        for value in result:
            yield from heads(value)


def docstring(script: Path) -> str:
    """Return what a script says of itself in the first sentence."""
    told = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
    assert told is not None
    return told.split("\n\n")[0].replace("\n", " ").rstrip(".:")


@click.command()
def main() -> None:
    """Write the document."""
    DOCUMENT.write_text(document(), encoding="utf-8")


if __name__ == "__main__":
    main()
