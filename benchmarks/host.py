"""What the host takes beside the engines: a run of ``spectr-batch`` over engines whose every pass is a pause.

    python benchmarks/host.py build/demo/bundle

Reading records, templates, tokens, texts, rows and files are as in any run; a pass of an engine sleeps two milliseconds
and returns the same logits for every token. Told are the shares of the wall time: in the engines, in the laws and the
selection, and the rest, in which neither works since they wait for the host. What the host does while a pass sleeps
does not count; a pass counts for as long as such a sleep takes on this machine with nothing beside it. The bundle
gives the tokenizer and the vocabulary, its models are not opened. ``--tokens`` is what a row writes: the shorter the
rows, the more often the host reads and writes one.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_jobs.cli import main as cli
from spectr_jobs.run_directory.sessions import read_sessions
from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.contract import Call, KVCache, Output
from spectr_runtime.speculation import pair

PROMPT = "Write a function that adds the numbers of a list and returns the sum. " * 4


class PausingEngine:
    """An engine without a model; its cache has one layer of one head of one number."""

    def __init__(self, bundle: Bundle, role: Role, rows: int, capacity: int, seconds: float) -> None:
        self.spec = dataclasses.replace(bundle.manifest.models[role], layers=1, kv_heads=1, head_size=1)
        self.cache = KVCache(1, rows, 1, capacity, 1, dtype=torch.float32, device=torch.device("cpu"))
        self.calls, self._seconds = 0, seconds
        self._logits_V = 3 * torch.randn(self.spec.vocabulary, generator=torch.Generator().manual_seed(0))

    def forward(self, call: Call) -> torch.Tensor:
        """See ``Engine``."""
        self.calls += 1
        time.sleep(self._seconds)
        return self._logits_V.expand(*call.logit_index_BM.shape, -1)

    def run(self, call: Call) -> Output:
        """See ``Engine``."""
        return Output(self.forward(call), None)


def pause(seconds: float) -> float:
    """How long a sleep of so many seconds takes here."""
    spent = []
    for _ in range(200):
        started = time.perf_counter()
        time.sleep(seconds)
        spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def measure(bundle: Path, rows: int, records: int, tokens: int, seconds: float) -> dict[str, Any]:
    """Run over so many records, and divide the wall time of decoding."""
    engines: list[PausingEngine] = []

    def open_engine(bundle: Bundle, role: Role, *, rows: int, capacity: int, **_: object) -> PausingEngine:
        engines.append(PausingEngine(bundle, role, rows, capacity, seconds))
        return engines[-1]

    pair.open_engine = open_engine
    with tempfile.TemporaryDirectory() as folder:
        source, run = Path(folder) / "input.jsonl", Path(folder) / "run"
        lines = (
            {"id": f"record-{number}", "prompt": f"{number}: {PROMPT}", "ignore_eos": True} for number in range(records)
        )
        source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sampling = ["--max-tokens", str(tokens), "--temperature", "1"]
        arguments = ["run", str(bundle), str(source), "-o", str(run), "--plan", "plain", *sampling]
        if status := cli.call([*arguments, "--batch-size", str(rows)]):
            raise click.ClickException(f"the run ended with {status}")
        (session,) = read_sessions(run / "sessions")
    wall, timing = session.last.seconds, session.last.timing
    passes = sum(engine.calls for engine in engines)
    in_engines = pause(seconds) * passes
    laws = sum(timing[stage] for stage in ("prefill", "draft", "verify", "select", "commit")) - in_engines
    return {
        "rows": rows,
        "records": records,
        "tokens": tokens,
        "seconds": round(wall, 2),
        "passes": passes,
        "in_engines": round(in_engines / wall, 3),
        "laws_and_selection": round(laws / wall, 3),
        "host": round((wall - laws - in_engines) / wall, 3),
        "laws_ms_per_pass": round(1e3 * laws / passes, 2),
        "host_ms_per_pass": round(1e3 * (wall - laws - in_engines) / passes, 2),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--rows", default=64, show_default=True)
@click.option("--written", default=2**17, show_default=True, help="Tokens that all rows of a run write together.")
@click.option("--tokens", "lengths", multiple=True, type=int, default=(16, 128), help="Tokens that a row writes.")
@click.option("--milliseconds", default=2.0, show_default=True, help="Of a pass.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "host.json")
def main(bundle: Path, rows: int, written: int, lengths: tuple[int, ...], milliseconds: float, output: Path) -> None:
    """Measure and write the result file."""
    lines = [measure(bundle, rows, written // tokens, tokens, milliseconds / 1e3) for tokens in lengths]
    output.write_text(json.dumps(machine() | {"milliseconds": milliseconds, "lines": lines}, indent=1) + "\n")
    for line in lines:
        click.echo("  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
