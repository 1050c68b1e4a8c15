"""Plain, single-draft and multi-draft decoding of demo prompts, interleaved in one run.

    python benchmarks/decoding.py build/demo/bundle --name demo

Every repeat decodes the same prompts with every plan, the order turning, so that the machine's moods fall on all alike.
Reported are medians over the repeats: tokens per second, the ratio to plain decoding in the same repeat, and the share
of the time that is spent in calls of the engines; the share that drafting takes between its calls, which is all that
drafting in a single call could save; and how many rows have the text of plain decoding. For auto, the
ratio to the best fixed race in the same repeat is told too; it has learnt in a decoding before what rounds cost. Every
decoding has a decoder of its own, so that none finds in its corpus what another one wrote behind the same prompts.

    python benchmarks/decoding.py build/demo/bundle --name demo-one-shape --one-shape --batch-size 8

With --one-shape the ratio is that of calls of one shape to calls as large as they need to be, plan by plan.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call, Engine, Output
from spectr_runtime.engines import open_engine
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation import pair
from spectr_runtime.speculation.plan import PlanChoice

PLANS: tuple[PlanChoice, ...] = (
    Plan.plain(),
    "auto",
    Plan("race", 1, 1),
    Plan("race", 1, 2),
    Plan("race", 1, 4),
    Plan("race", 1, 8),
    Plan("race", 2, 4),
    Plan("single", 1, 4),
    Plan("kseq", 2, 2),
    Plan("kseq", 2, 4),
    Plan("kseq", 4, 4),
)
ONE_SHAPE = (Plan.plain(), Plan("race", 1, 4))
PROMPTS = Path(__file__).parent.parent / "examples" / "prompts.jsonl"
TOKENS, FEW = 64, 8


class Clock:
    """An engine that adds up the seconds of its calls, and of those that feed a row few tokens, as rounds do."""

    def __init__(self, engine: Engine) -> None:
        self.spec, self.cache, self.capturable = engine.spec, engine.cache, engine.capturable
        self._engine = engine
        self.seconds = self.in_rounds = 0.0

    def forward(self, call: Call) -> torch.Tensor:
        """See ``Engine``."""
        return self.run(call).logits_BMV

    def run(self, call: Call) -> Output:
        """See ``Engine``."""
        started = time.perf_counter()
        try:
            return self._engine.run(call)
        finally:
            spent = time.perf_counter() - started
            self.seconds += spent
            self.in_rounds += spent if call.input_ids_BT.shape[1] <= FEW else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One decoding of all requests."""

    seconds: float
    in_engines: float
    between_drafts: float
    tokens: int
    rounds: int
    accepted: int
    texts: dict[str, tuple[int, ...]]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def read_requests(bundle: Bundle, count: int, prompt_tokens: int, temperature: float) -> list[Request]:
    """The ends of demo prompts without their stops: every row writes the same number of tokens."""
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True, temperature=temperature)
    tokenizer, requests = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size), []
    for line in PROMPTS.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        ids = tokenizer.encode(record.get("prompt") or record["body"]["prompt"])
        if len(ids) >= prompt_tokens and len(requests) < count:
            requests.append(Request(record.get("id") or record["custom_id"], tuple(ids[-prompt_tokens:]), params))
    if len(requests) < count:
        raise click.ClickException(f"only {len(requests)} prompts have {prompt_tokens} tokens; {count} are wanted")
    return requests


def open_decoder(
    bundle: Bundle, plan: PlanChoice, batch_size: int, backend: str, call_tokens: int | None = None
) -> tuple[Decoder, list[Clock]]:
    """A decoder whose engines are clocked."""
    clocks: list[Clock] = []

    def open_clocked(*arguments: Any, **sizes: Any) -> Clock:
        clocks.append(Clock(open_engine(*arguments, **sizes)))
        return clocks[-1]

    pair.open_engine = open_clocked  # type: ignore[assignment]
    try:
        sizes = {"batch_size": batch_size, "call_tokens": call_tokens}
        return Decoder(bundle, plan=plan, backend=backend, **sizes), clocks  # type: ignore[arg-type]
    finally:
        pair.open_engine = open_engine


def decode(decoder: Decoder, clocks: list[Clock], requests: list[Request]) -> Run:
    """Decode all requests once."""
    for clock in clocks:
        clock.seconds = clock.in_rounds = 0.0
    drafting = decoder.timing.draft
    started = time.perf_counter()
    rows = [row for row in decoder.generate(requests) if isinstance(row, Completion)]
    seconds = time.perf_counter() - started
    if len(rows) != len(requests):
        raise click.ClickException(f"{len(requests) - len(rows)} of {len(requests)} rows failed")
    return Run(
        seconds=seconds,
        in_engines=sum(clock.seconds for clock in clocks),
        between_drafts=decoder.timing.draft - drafting - sum(clock.in_rounds for clock in clocks[1:]),
        tokens=sum(row.usage.completion_tokens for row in rows),
        rounds=sum(row.speculation.rounds for row in rows),
        accepted=sum(row.speculation.accepted for row in rows),
        texts={row.id: row.token_ids for row in rows},
    )


def measure(
    bundle: Bundle, batch_size: int, repeats: int, requests: list[Request], backend: str
) -> list[dict[str, Any]]:
    """One line per plan at this batch size; each decoding has a decoder of its own, warmed by another text."""
    short = dataclasses.replace(requests[0].params, max_tokens=FEW)
    warming = [Request("warming", requests[0].prompt[::-1], short)]
    plans = PLANS if bundle.manifest.has_draft else (Plan.plain(),)
    decode(*open_decoder(bundle, "auto", batch_size, backend), requests)
    runs: list[list[Run]] = [[] for _ in plans]
    for repeat in range(repeats):
        for place in range(len(plans)):
            turned = (place + repeat) % len(plans)
            opened = open_decoder(bundle, plans[turned], batch_size, backend)
            decode(*opened, warming)
            runs[turned].append(decode(*opened, requests))
            click.echo(f"B={batch_size} {plans[turned]}: {runs[turned][-1].speed:.0f} tok/s", err=True)
    races = [taken for plan, taken in zip(plans, runs, strict=True) if plan != "auto" and plan.rule == "race"]
    best = max(races, key=lambda taken: statistics.median(run.speed for run in taken), default=runs[0])
    return [
        line(plan, batch_size, taken, runs[0]) | ({"to_best_race": ratios(taken, best)} if plan == "auto" else {})
        for plan, taken in zip(plans, runs, strict=True)
    ]


def measure_one_shape(
    bundle: Bundle, batch_size: int, repeats: int, requests: list[Request], backend: str
) -> list[dict[str, Any]]:
    """One line per fixed plan: calls of one shape, just large enough for its tree, and others in turns."""
    lines = []
    for plan in ONE_SHAPE:
        opened = [open_decoder(bundle, plan, batch_size, backend, tokens) for tokens in (None, plan.tree.size)]
        for one in opened:
            decode(*one, requests[: 2 * batch_size])
        runs: tuple[list[Run], list[Run]] = ([], [])
        for repeat in range(repeats):
            for place in range(2):
                turned = (place + repeat) % 2
                runs[turned].append(decode(*opened[turned], requests))
                click.echo(f"{plan} {('free', 'one shape')[turned]}: {runs[turned][-1].speed:.0f} tok/s", err=True)
        free, shaped = runs
        lines.append(
            {
                "plan": str(plan),
                "call_shape": f"{batch_size}x{plan.tree.size}",
                "tokens_per_second": round(statistics.median(run.speed for run in shaped), 1),
                "to_free": ratios(shaped, free),
                "texts_of_free": sum(shaped[-1].texts[key] == text for key, text in free[-1].texts.items()),
            }
        )
    return lines


def ratios(taken: list[Run], base: list[Run]) -> dict[str, float]:
    """The ratio of speeds, repeat by repeat: its median and range."""
    found = sorted(one.speed / other.speed for one, other in zip(taken, base, strict=True))
    return {
        "median": round(statistics.median(found), 3), "least": round(found[0], 3), "most": round(found[-1], 3)
    }  # fmt: skip


def line(plan: PlanChoice, batch_size: int, taken: list[Run], plain: list[Run]) -> dict[str, Any]:
    """The figures of a plan."""
    return {
        "plan": str(plan),
        "batch_size": batch_size,
        "tokens_per_second": round(statistics.median(run.speed for run in taken), 1),
        "block_efficiency": round(1 + taken[-1].accepted / taken[-1].rounds, 3),
        "to_plain": ratios(taken, plain),
        "in_engines": round(statistics.median(run.in_engines / run.seconds for run in taken), 3),
        "between_drafts": round(statistics.median(run.between_drafts / run.seconds for run in taken), 3),
        "texts_of_plain": sum(taken[-1].texts[key] == text for key, text in plain[-1].texts.items()),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--name", required=True, help="Of the models, in the result file; lines of the same name are replaced.")
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(1, 8), help="Rows decoded together.")
@click.option("--repeats", default=5, help="Interleaved repeats.")
@click.option("--prompts", default=8, help="Demo prompts to decode.")
@click.option("--prompt-tokens", default=64, help="Tokens of each prompt.")
@click.option("--temperature", default=1.0)
@click.option("--backend", default="onnxruntime", help="onnxruntime or torch.")
@click.option("--one-shape", is_flag=True, help="Compare calls of one shape with others instead.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "decoding.json")
def main(
    bundle: Path,
    name: str,
    batch_sizes: tuple[int, ...],
    repeats: int,
    prompts: int,
    prompt_tokens: int,
    temperature: float,
    backend: str,
    one_shape: bool,
    output: Path,
) -> None:
    """Measure and write the result file."""
    opened = Bundle.open(bundle)
    requests = read_requests(opened, prompts, prompt_tokens, temperature)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        lines = [
            one
            for size in batch_sizes
            for one in (measure_one_shape if one_shape else measure)(opened, size, repeats, requests, backend)
        ]
    facts = machine() | {
        "backend": backend, "prompts": prompts, "prompt_tokens": prompt_tokens, "tokens_per_prompt": TOKENS,
        "temperature": temperature, "repeats": repeats, "lines": lines,
    }  # fmt: skip
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    output.write_text(json.dumps(kept | {name: facts}, indent=1) + "\n", encoding="utf-8")
    for one in lines:
        if one_shape:
            click.echo("  ".join(f"{key} {value}" for key, value in one.items()))
            continue
        click.echo(
            f"B={one['batch_size']:<3} {one['plan']:<12} {one['tokens_per_second']:>8} tok/s  "
            f"block efficiency {one['block_efficiency']:<6} x{one['to_plain']['median']} {one.get('to_best_race', '')} "
            f"engines {one['in_engines']:.0%}, between drafts {one['between_drafts']:.0%}, "
            f"{one['texts_of_plain']} texts of plain"
        )


if __name__ == "__main__":
    main()
