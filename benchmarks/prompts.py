"""Prompts that share a part: spectr with and without its store of prefixes, and OpenVINO GenAI with its prefix cache.

    python benchmarks/prompts.py --folder build/peers        # in the environment that `make peers` makes
    python benchmarks/prompts.py --input choices --rounds 2

The models are the padded demo pair with more positions, for their speed alone: behind their first 512 positions they
have learnt nothing. Four inputs of 24 prompts each, of which eight are decoded together, 64 tokens behind each: a
system prompt of 512 tokens, examples of 1,500, eight choices of one prompt, and nothing shared. Every tool is a process
of its own, asked in turns while the others are stopped. What is shared is another text in every round. Told are tokens
per second, the ratio to spectr without the store in the same round, and the largest memory of the process so far.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from machine import continues, machine
from peer_tools.process import Worker
from peers import EXAMPLES
from tokenizers import Tokenizer

RESULT = Path(__file__).parent / "results" / "prompts.json"
POSITIONS, WRITTEN, ROWS, PROMPTS = 2048, 64, 8, 24
BEFORE = ("spectr", "auto without prefixes")
TOOLS = (BEFORE, ("spectr", "auto"), ("OpenVINO GenAI", "prefixes"))


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A long text, from which prompts are cut."""

    ids: list[int]

    def cut(self, start: int, tokens: int) -> list[int]:
        """Return so many tokens from a place on, going round."""
        turned = self.ids[start % len(self.ids) :] + self.ids
        return (turned * (tokens // len(turned) + 1))[:tokens]


def _behind(shared: int, own: int, copies: int = 1) -> Callable[[Text, int], list[list[int]]]:
    """Return what makes the prompts of a round: ``own`` tokens behind ``shared`` ones, each prompt so many times."""

    def prompts(text: Text, number: int) -> list[list[int]]:
        start = 7001 * number
        common = text.cut(start, shared)
        starts = (start + 191 * (1 + place // copies) for place in range(PROMPTS))
        return [common + text.cut(one, own) for one in starts]

    return prompts


INPUTS: Mapping[str, Callable[[Text, int], list[list[int]]]] = {
    "system prompt of 512": _behind(512, 64),
    "examples of 1,500": _behind(1500, 64),
    "eight choices": _behind(0, 256, copies=8),
    "nothing shared": _behind(0, 256),
}


def read_text() -> Text:
    """The demo prompts, one behind the other."""
    tokenizer = Tokenizer.from_file(str(EXAMPLES / "demo_pair" / "target" / "tokenizer.json"))
    lines = map(json.loads, (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
    return Text([one for line in lines for one in tokenizer.encode(line.get("prompt") or line["body"]["prompt"]).ids])


def make_models(folder: Path) -> tuple[Path, Path]:
    """The padded target and the draft with more positions; made once."""
    target, draft = folder / "target", folder / "draft"
    if not target.exists():
        subprocess.run(
            [sys.executable, EXAMPLES / "pad_target.py", EXAMPLES / "demo_pair" / "target", target], check=True
        )
        shutil.copytree(EXAMPLES / "demo_pair" / "draft", draft, dirs_exist_ok=True)
        for model in (target, draft):
            config = json.loads((model / "config.json").read_text(encoding="utf-8"))
            longer = json.dumps(config | {"max_position_embeddings": POSITIONS})
            (model / "config.json").write_text(longer, encoding="utf-8")
    return target, draft


def open_workers(folder: Path, precision: str) -> dict[tuple[str, str], Worker]:
    """Start every tool."""
    (target, draft), workers = make_models(folder), {}
    for tool, plan in TOOLS:
        setup = {
            "tool": tool, "plan": plan, "precision": precision, "target": str(target),
            "draft": str(draft), "draft_precision": precision, "rows": ROWS,
            "folder": str(folder), "capacity": POSITIONS - WRITTEN,
        }  # fmt: skip
        worker = Worker(setup, folder / f"{tool}-{plan}.log".replace(" ", "-"))
        if "error" in worker.opened:
            raise click.ClickException(f"{tool} {plan}: {worker.opened['error']}")
        workers[tool, plan] = worker
    return workers


def measure(
    workers: Mapping[tuple[str, str], Worker], name: str, text: Text, rounds: int, first: int
) -> list[dict[str, Any]]:
    """Decode an input with every tool in turns."""
    speeds: dict[tuple[str, str], list[float]] = {one: [] for one in workers}
    peaks = dict.fromkeys(workers, 0)
    for number in range(rounds):
        prompts = INPUTS[name](text, first + number)
        for place in range(len(workers)):
            one = list(workers)[(place + number) % len(workers)]
            answer = workers[one].ask({"decode": prompts, "tokens": WRITTEN, "seed": number})
            if "error" in answer:
                raise click.ClickException(f"{' '.join(one)}: {answer['error']}")
            speeds[one].append(PROMPTS * WRITTEN / answer["seconds"])
            peaks[one] = answer["peak_bytes"]
            click.echo(f"{name}, round {number}: {' '.join(one)}: {speeds[one][-1]:.0f} tokens/s", err=True)
    return [
        {
            "input": name,
            "tool": " ".join(one),
            "tokens_per_second": round(statistics.median(taken), 1),
            "ratios": [round(own / before, 2) for own, before in zip(taken, speeds[BEFORE], strict=True)],
            "peak_gb": round(peaks[one] / 1e9, 2),
        }
        for one, taken in speeds.items()
    ]


@click.command()
@click.option("--folder", default=Path("build/peers"), type=click.Path(path_type=Path), help="Where models are made.")
@click.option("--precision", default="fp32", type=click.Choice(["fp32", "int8"]), show_default=True)
@click.option("--input", "names", multiple=True, type=click.Choice(list(INPUTS)), help="Default: all.")
@click.option("--rounds", default=3, show_default=True)
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path), help="Result file; inputs are merged.")
def main(folder: Path, precision: str, names: tuple[str, ...], rounds: int, output: Path) -> None:
    """Measure and write the result file."""
    place = folder / "long"
    place.mkdir(parents=True, exist_ok=True)
    text, workers = read_text(), open_workers(place, precision)
    facts = machine() | {"precision": precision, "prompts": PROMPTS, "rows": ROWS, "written": WRITTEN}
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    lines = kept["lines"] if continues(kept, facts) else []  # of this day, machine, versions and state
    for number, name in enumerate(names or INPUTS):
        found = measure(workers, name, text, rounds, number * rounds)
        lines = [line for line in lines if line["input"] != name] + found
        output.write_text(json.dumps(facts | {"lines": lines}, indent=1) + "\n", encoding="utf-8")
    for worker in workers.values():
        worker.close()
    for line in lines:
        click.echo("  ".join(f"{key} {value}" for key, value in line.items()))


if __name__ == "__main__":
    main()
