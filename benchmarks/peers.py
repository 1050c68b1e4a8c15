"""spectr beside other tools, each in a process of its own and asked in turns, as ratios to spectr's plain decoding.

    make peers                                                                # the padded demo pair, every cell
    make peers ARGS="--pair both --checkpoint path/to/model"                  # a checkpoint as well
    make peers ARGS="--precision fp32 --rows 1 --rounds 4"                    # one cell

A cell is a pair, a precision of the target's matrices and a number of rows that are decoded together. The padded pair
is the demo's with the target of ``examples/pad_target.py``. A checkpoint's draft is a copy of it in a lower precision,
where a tool can make one.

Before anything is timed, every tool gives the log-probability of every token of a text, and those are compared with
transformers' in float32 on the original. A tool whose law differs by more than its precision explains is not timed. In
every round each tool writes 64 tokens behind prompts of 64 at temperature 1, the order turning, while the others'
processes are stopped. Reported are medians over the rounds of tokens per second and of the ratio to spectr's plain
decoding in the same round, with its quartiles. What fails to be installed, to open or to decode is absent from the
figures, with its error.

Results are merged cell by cell, so that parts can be measured again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from machine import machine
from peer_tools.process import Worker
from quoting.peers import tables
from tokenizers import Tokenizer

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
RESULT = HERE / "results" / "peers.json"
PLAIN = ("spectr", "plain")
# Tools and plans; `race 1 4` has K=1 and L=4.
TOOLS = (
    PLAIN,
    ("spectr", "auto"),
    ("spectr", "race 1 2"),
    ("spectr", "race 1 4"),
    ("spectr", "race 1 6"),
    ("spectr", "kseq 2 2"),
    ("spectr", "kseq 2 4"),
    ("transformers", "plain"),
    ("transformers", "assisted"),
    ("onnxruntime-genai", "plain"),
    ("OpenVINO GenAI", "plain"),
    ("OpenVINO GenAI", "draft 4"),
    ("llama.cpp", "plain"),
)
# The largest mean difference of a text's log-probabilities from the original's, in nats, by precision.
TOLERANCES = {"fp32": 0.002, "int8": 0.25, "int4": 0.6}
COPIES = {"fp32": "int8", "int8": "int4"}  # the precision of the copy that drafts for a checkpoint
PROMPTS, LENGTH, WRITTEN, WARMING = 8, 64, 64, 8  # tokens, but for the number of prompts


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """The models of some cells.

    Attributes:
        name: What the pair is called in the results.
        target: Folder of the target.
        draft: Folder of the draft; None for a copy of the target.
        folder: Where tools keep what they make of the models.
    """

    name: str
    target: Path
    draft: Path | None
    folder: Path

    def setup(self, tool: str, plan: str, precision: str, rows: int) -> dict[str, Any]:
        """Return what a worker reads first."""
        copy = COPIES.get(precision)
        return {
            "tool": tool,
            "plan": plan,
            "precision": precision,
            "target": str(self.target),
            "draft": str(self.draft or self.target) if self.draft or copy else None,
            "draft_precision": precision if self.draft else str(copy),
            "rows": rows,
            "folder": str(self.folder),
        }

    def prompts(self) -> list[list[int]]:
        """Return the first demo prompts that are long enough, cut to equal lengths."""
        tokenizer = Tokenizer.from_file(str(self.target / "tokenizer.json"))
        lines = map(json.loads, (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
        encoded = (tokenizer.encode(one.get("prompt") or one["body"]["prompt"]).ids for one in lines)
        return [ids[:LENGTH] for ids in encoded if len(ids) >= LENGTH][:PROMPTS]


def compare_laws(answer: Mapping[str, Any], reference: Sequence[float], precision: str) -> dict[str, Any]:
    """Return by how much a law differs from the reference, or the error that it does by too much."""
    if "error" in answer:
        return {"error": answer["error"]}
    differences = [abs(own - other) for own, other in zip(answer["law"], reference, strict=True)]
    mean = statistics.fmean(differences)
    if not mean <= TOLERANCES[precision]:
        return {"error": f"its law is another: {mean:.3g} nats per token from the original's"}
    return {"law": {"mean": round(mean, 6), "largest": round(max(differences), 6)}}


def open_workers(
    pair: Pair, precision: str, rows: int, text: list[int], reference: Sequence[float]
) -> tuple[dict[tuple[str, str], Worker], dict[tuple[str, str], dict[str, Any]]]:
    """Start every tool and compare its law. Those that pass stay open; of all there is what was found."""
    workers, found = {}, {}
    for tool, plan in TOOLS:
        log = pair.folder / f"{tool}-{plan}-{precision}-{rows}.log".replace(" ", "-")
        worker = Worker(pair.setup(tool, plan, precision, rows), log)
        law = worker.opened if "error" in worker.opened else worker.ask({"law": text})
        found[tool, plan] = compare_laws(law, reference, precision)
        click.echo(f"{pair.name} {precision} rows={rows}: {tool} {plan}: {json.dumps(found[tool, plan])}", err=True)
        if "error" in found[tool, plan]:
            worker.close()
        else:
            workers[tool, plan] = worker
    return workers, found


def reference_law(pair: Pair, text: list[int]) -> list[float]:
    """Return what transformers says of a text in float32."""
    worker = Worker(pair.setup("transformers", "plain", "fp32", 1), pair.folder / "reference.log")
    answer = worker.ask({"law": text}) if "error" not in worker.opened else worker.opened
    worker.close()
    if "error" in answer:
        raise click.ClickException(f"transformers gives no reference: {answer['error']}")
    law: list[float] = answer["law"]
    return law


def speed(worker: Worker, prompts: list[list[int]], tokens: int, seed: int) -> float | str:
    """Return the tokens per second of one decoding, or why there is no figure."""
    answer = worker.ask({"decode": prompts, "tokens": tokens, "seed": seed})
    if "error" in answer:
        return str(answer["error"])
    lengths = sorted({len(ids) for ids in answer["written"]})
    if lengths != [tokens]:
        return f"wrote {lengths} tokens instead of {tokens}"
    return float(len(prompts) * tokens / answer["seconds"])


def interleave(
    workers: dict[tuple[str, str], Worker], prompts: list[list[int]], rows: int, rounds: int
) -> dict[tuple[str, str], list[float | str]]:
    """Return the speeds of every worker, or its error, round by round after one that is not counted."""
    speeds: dict[tuple[str, str], list[float | str]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        turn = list(workers)[number % len(workers) :] + list(workers)[: number % len(workers)]
        given = [prompts[(number * rows + row) % len(prompts)] for row in range(rows)]
        for name in turn:
            figure = speed(workers[name], given, WRITTEN if number else WARMING, number)
            click.echo(f"  round {number} of {rounds}: {' '.join(name)}: {figure}", err=True)
            if number:
                speeds[name].append(figure)
    return speeds


def figures(own: Sequence[float | str], plain: Sequence[float | str]) -> dict[str, Any]:
    """Return medians of the speed and of the ratio to plain, with the ratio's quartiles; or why there are none.

    Rounds that failed are counted, with the last error, and left out.
    """
    errors = [one for one in own if isinstance(one, str)]
    both = [(one, base) for one, base in zip(own, plain, strict=True) if not isinstance(one, str)]
    ratios = [one / base for one, base in both if not isinstance(base, str)]
    if len(ratios) < 2:
        return {"absent": errors[-1] if errors else "too few rounds"}
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "tokens_per_second": round(statistics.median(one for one, _ in both), 1),
        "ratio": round(middle, 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "failed_rounds": len(errors),
        **({"failure": errors[-1]} if errors else {}),
    }


def measure(pair: Pair, precision: str, rows: int, rounds: int, reference: list[float]) -> dict[str, Any]:
    """Return one cell."""
    prompts, load = pair.prompts(), os.getloadavg()[0]
    workers, found = open_workers(pair, precision, rows, prompts[0], reference)
    if PLAIN not in workers:
        raise click.ClickException(f"spectr does not decode plainly: {found[PLAIN]['error']}")
    try:
        speeds = interleave(workers, prompts, rows, rounds)
    finally:
        for worker in workers.values():
            worker.close()
    lines = []
    for (tool, plan), line in found.items():
        error = line.get("error")
        told = {"absent": error} if error else line | figures(speeds[tool, plan], speeds[PLAIN])
        lines.append({"tool": tool, "plan": plan} | told)
    key = {"pair": pair.name, "precision": precision, "rows": rows}
    sizes = {"rounds": rounds, "prompt": LENGTH, "written": WRITTEN, "load_before": round(load, 1)}
    return key | sizes | {"lines": lines, "machine": machine()}


def merge(cells: list[dict[str, Any]], cell: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cells with one more, which replaces an older one of its kind."""
    key = ("pair", "precision", "rows")
    kept = [one for one in cells if any(one[name] != cell[name] for name in key)]
    return sorted([*kept, cell], key=lambda one: [str(one[name]) for name in key])


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Return the cells of a result file, none if it is not there."""
    if not path.exists():
        return []
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def pairs_of(wanted: str, checkpoint: Path | None, folder: Path) -> Iterator[Pair]:
    """Yield the pairs that are asked for; the padded target is made here."""
    if wanted != "checkpoint":
        target = folder / "padded" / "target"
        if not target.exists():
            subprocess.run(
                [sys.executable, EXAMPLES / "pad_target.py", EXAMPLES / "demo_pair" / "target", target], check=True
            )
        yield Pair("padded", target, EXAMPLES / "demo_pair" / "draft", folder / "padded")
    if wanted != "padded" and checkpoint is not None:
        place = folder / checkpoint.name
        place.mkdir(parents=True, exist_ok=True)
        yield Pair(checkpoint.name, checkpoint, None, place)


@click.command()
@click.option("--pair", default="padded", type=click.Choice(["padded", "checkpoint", "both"]), show_default=True)
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), help="Folder of a Llama that is a pair.")
@click.option("--precision", "precisions", multiple=True, type=click.Choice(list(TOLERANCES)), help="Default: all.")
@click.option("--rows", "sizes", multiple=True, type=int, default=(1, 8), show_default=True, help="Rows at a time.")
@click.option("--rounds", default=8, show_default=True, help="Rounds of a cell, two or more.")
@click.option("--folder", default=Path("build/peers"), type=click.Path(path_type=Path), help="Where models are made.")
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path), help="Result file; cells are merged.")
def main(
    pair: str,
    checkpoint: Path | None,
    precisions: tuple[str, ...],
    sizes: tuple[int, ...],
    rounds: int,
    folder: Path,
    output: Path,
) -> None:
    """Measure the cells that are asked for, and write each into the result file when it is done."""
    if pair != "padded" and checkpoint is None:
        raise click.UsageError(f"--pair {pair} needs --checkpoint FOLDER.")
    for one in pairs_of(pair, checkpoint, folder):
        # Other tools' models are kept between runs; what spectr makes must be of the code that is measured.
        shutil.rmtree(one.folder / "spectr", ignore_errors=True)
        reference = reference_law(one, one.prompts()[0])
        for precision in precisions or TOLERANCES:
            for rows in sizes:
                cells = merge(read_cells(output), measure(one, precision, rows, rounds, reference))
                output.write_text(json.dumps({"cells": cells}, indent=1) + "\n", encoding="utf-8")
    click.echo(tables({"cells": read_cells(output)}))


if __name__ == "__main__":
    main()
