"""Sources of drafts on four kinds of work: none, look-up, corpus, draft model, and the automatic plan, interleaved.

    python benchmarks/drafts.py build/smollm2 --name smollm2 --chat
    python benchmarks/drafts.py build/demo/bundle --name padded

The works are rewriting and extraction of a given text, an edit of code, answers by a template over many records, and
free prose; ``drafts_works.py`` makes their prompts. Every repeat decodes all prompts with every plan, in turns.
Every decoding has a decoder of its own, so that no corpus holds what an earlier one wrote; opening it is not counted.
The costs that the automatic plan learns are learnt in a decoding before.

Reported are medians over the repeats: tokens per second and per pass of the target, the ratio to plain decoding in the
same repeat with its range, what each source proposed and how much of it was accepted, the share of the time that
looking up takes, and how many rows have the text of plain decoding.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from drafts_works import WORKS, prompts
from machine import continues, machine

from spectr_runtime import Bundle, Chat, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.speculation.plan import PlanChoice

PLANS: dict[str, PlanChoice] = {
    "none": Plan.plain(),
    "lookup": Plan("race", 1, 8, "lookup"),
    "corpus": Plan("race", 1, 8, "corpus"),
    "draft": Plan("race", 1, 4),
    "auto": "auto",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One decoding of all prompts."""

    seconds: float
    looking_up: float
    tokens: int
    rounds: int
    sources: dict[str, Counter[str]]
    texts: dict[str, tuple[int, ...]]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def requests_of(work: str, count: int, tokens: int, temperature: float, chat: bool) -> list[Request]:
    """The prompts of a work, as conversations for a model that was made for them."""
    params = SamplingParams(max_tokens=tokens, temperature=temperature)
    return [
        Request(f"{work}-{number}", Chat(({"role": "user", "content": prompt},)) if chat else prompt, params)
        for number, prompt in enumerate(prompts(work, count, chat=chat))
    ]


def decode(bundle: Bundle, plan: PlanChoice, batch_size: int, requests: list[Request]) -> Run:
    """Decode all requests once, with a decoder of its own."""
    decoder = Decoder(bundle, plan=plan, batch_size=batch_size)
    started = time.perf_counter()
    rows = [row for row in decoder.generate(requests) if isinstance(row, Completion)]
    seconds = time.perf_counter() - started
    if len(rows) != len(requests):
        raise click.ClickException(f"{len(requests) - len(rows)} of {len(requests)} rows failed")
    sources: dict[str, Counter[str]] = {}
    for row in rows:
        for name, stats in row.speculation.sources.items():
            sources.setdefault(name, Counter()).update(dataclasses.asdict(stats))
    return Run(
        seconds=seconds,
        looking_up=decoder.timing.lookup,
        tokens=sum(row.usage.completion_tokens for row in rows),
        rounds=sum(row.speculation.rounds for row in rows),
        sources=sources,
        texts={row.id: row.token_ids for row in rows},
    )


def measure(bundle: Bundle, batch_size: int, repeats: int, requests: list[Request]) -> dict[str, dict[str, Any]]:
    """The figures of every plan for one work."""
    plans = {name: plan for name, plan in PLANS.items() if bundle.manifest.has_draft or name != "draft"}
    decode(bundle, "auto", batch_size, requests)
    runs: dict[str, list[Run]] = {name: [] for name in plans}
    for repeat in range(repeats):
        for place in range(len(plans)):
            name = [*plans][(place + repeat) % len(plans)]
            runs[name].append(decode(bundle, plans[name], batch_size, requests))
    return {name: line(taken, runs["none"]) for name, taken in runs.items()}


def line(taken: list[Run], plain: list[Run]) -> dict[str, Any]:
    """The figures of a plan."""
    ratios = sorted(one.speed / other.speed for one, other in zip(taken, plain, strict=True))
    last = taken[-1]
    return {
        "tokens_per_second": round(statistics.median(run.speed for run in taken), 1),
        "to_plain": [round(one, 3) for one in (statistics.median(ratios), ratios[0], ratios[-1])],
        # The first token of a row comes from a round too, so that every token does.
        "tokens_per_pass": round(last.tokens / last.rounds, 2),
        "looking_up": round(statistics.median(run.looking_up / run.seconds for run in taken), 4),
        "sources": last.sources,
        "texts_of_plain": sum(last.texts[key] == text for key, text in plain[-1].texts.items()),
    }


def prompts_for(work: str, rows: int) -> int:
    """How many times as many prompts are decoded as by one row; answers by a template are many records by nature."""
    return 1 if rows == 1 else 8 if work == "template" else 3


def keep(output: Path, name: str, facts: dict[str, Any], cell: dict[str, Any]) -> None:
    """Write a cell into the result file, in the place of an older one of its kind; those of another state go."""

    def kind(one: dict[str, Any]) -> tuple[int, float, int]:
        return one["rows"], one["temperature"], WORKS.index(one["work"])

    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    found = kept.get(name, {})
    cells = [one for one in found["cells"] if kind(one) != kind(cell)] if continues(found, facts) else []
    facts = facts | {"cells": sorted([*cells, cell], key=kind)}
    output.write_text(json.dumps(kept | {name: facts}, indent=1) + "\n", encoding="utf-8")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--name", default="bundle", show_default=True, help="Of the models, in the result file.")
@click.option("--chat", is_flag=True, help="Ask by conversations.")
@click.option("--work", "works", multiple=True, type=click.Choice(WORKS), default=WORKS, help="Kind of work.")
@click.option("--rows", "sizes", multiple=True, type=int, default=(1, 8), help="Rows decoded together.")
@click.option("--temperature", "temperatures", multiple=True, type=float, default=(0.0, 0.7))
@click.option("--repeats", default=3, help="Interleaved repeats.")
@click.option(
    "--prompts",
    "count",
    default=8,
    help="Prompts of a work for one row; three times as many for more, eight times by a template.",
)
@click.option("--tokens", default=64, help="The most tokens of a completion.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "drafts.json")
def main(
    bundle: Path,
    name: str,
    chat: bool,
    works: tuple[str, ...],
    sizes: tuple[int, ...],
    temperatures: tuple[float, ...],
    repeats: int,
    count: int,
    tokens: int,
    output: Path,
) -> None:
    """Measure, and write every cell into the result file at once."""
    opened = Bundle.open(bundle)
    facts = machine() | {"prompts": count, "tokens": tokens, "repeats": repeats}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for rows, temperature, work in ((r, t, w) for r in sizes for t in temperatures for w in works):
            requests = requests_of(work, count * prompts_for(work, rows), tokens, temperature, chat)
            plans = measure(opened, rows, repeats, requests)
            keep(output, name, facts, {"work": work, "temperature": temperature, "rows": rows, "plans": plans})
            for plan, one in plans.items():
                click.echo(
                    f"{work:<10} T={temperature} B={rows} {plan:<7} {one['tokens_per_second']:>7} tok/s "
                    f"x{one['to_plain'][0]:<6} {one['tokens_per_pass']} tokens a pass, looking up "
                    f"{one['looking_up']:.1%}, {one['texts_of_plain']} of {len(requests)} texts of plain"
                )


if __name__ == "__main__":
    main()
