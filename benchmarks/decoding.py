"""Plain, single-draft and multi-draft decoding of the demo prompts, interleaved in one run.

    python benchmarks/decoding.py build/pair

Every repeat decodes the same prompts with every plan, the order turning, so that the machine's moods fall on all alike.
Reported are the medians over the repeats of tokens per second and of the ratio to plain decoding in the same repeat.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
from machine import machine

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.speculation.plan import PlanChoice

PLANS: tuple[PlanChoice, ...] = (
    Plan.plain(),
    "auto",
    Plan("single", 1, 4),
    Plan("race", 1, 4),
    Plan("kseq", 2, 4),
    Plan("kseq", 4, 4),
    Plan("kseq", 8, 8),
)
PROMPTS = Path(__file__).parent.parent / "examples" / "prompts.jsonl"
TOKENS = 64


def read_requests(count: int) -> list[Request]:
    """The demo prompts without their stops: every row writes the same number of tokens at temperature 1."""
    params = SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()][:count]
    return [
        Request(record.get("id") or record["custom_id"], record.get("prompt") or record["body"]["prompt"], params)
        for record in records
    ]


def decode(decoder: Decoder, requests: list[Request]) -> dict[str, float]:
    """Decode all requests once: seconds, tokens per second and tokens per target pass."""
    started = time.perf_counter()
    rows = [row for row in decoder.generate(requests) if isinstance(row, Completion)]
    seconds = time.perf_counter() - started
    if len(rows) != len(requests):
        raise click.ClickException(f"{len(requests) - len(rows)} of {len(requests)} rows failed")
    tokens = sum(row.usage.completion_tokens for row in rows)
    rounds = sum(row.speculation.rounds for row in rows)
    accepted = sum(row.speculation.accepted for row in rows)
    return {"seconds": seconds, "tokens_per_second": tokens / seconds, "block_efficiency": 1 + accepted / rounds}


def measure(
    bundle: Bundle, batch_size: int, repeats: int, requests: list[Request], backend: str
) -> list[dict[str, object]]:
    """One line per plan at this batch size."""
    decoders = [Decoder(bundle, plan=plan, batch_size=batch_size, backend=backend) for plan in PLANS]  # type: ignore[arg-type]
    for decoder in decoders:
        decode(decoder, requests[:batch_size])
    runs: list[list[dict[str, float]]] = [[] for _ in PLANS]
    for repeat in range(repeats):
        for place in range(len(PLANS)):
            turned = (place + repeat) % len(PLANS)
            runs[turned].append(decode(decoders[turned], requests))
            click.echo(f"B={batch_size} {PLANS[turned]}: {runs[turned][-1]['tokens_per_second']:.0f} tok/s", err=True)
    return [line(plan, batch_size, run, runs[0]) for plan, run in zip(PLANS, runs, strict=True)]


def line(
    plan: PlanChoice, batch_size: int, run: list[dict[str, float]], plain: list[dict[str, float]]
) -> dict[str, object]:
    """Medians of a plan and its ratio to plain, repeat by repeat."""
    ratios = sorted(one["tokens_per_second"] / base["tokens_per_second"] for one, base in zip(run, plain, strict=True))
    return {
        "plan": str(plan),
        "batch_size": batch_size,
        "tokens_per_second": round(statistics.median(one["tokens_per_second"] for one in run), 1),
        "block_efficiency": round(run[0]["block_efficiency"], 3),
        "ratio_to_plain": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--batch-size", "batch_sizes", multiple=True, type=int, default=(1, 8), help="Rows decoded together.")
@click.option("--repeats", default=5, help="Interleaved repeats.")
@click.option("--prompts", default=24, help="Demo prompts to decode.")
@click.option("--backend", default="onnxruntime", help="onnxruntime or torch.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "decoding.json")
def main(bundle: Path, batch_sizes: tuple[int, ...], repeats: int, prompts: int, backend: str, output: Path) -> None:
    """Measure and write the result file."""
    opened, requests = Bundle.open(bundle), read_requests(prompts)
    lines = [one for size in batch_sizes for one in measure(opened, size, repeats, requests, backend)]
    result = machine() | {
        "backend": backend, "prompts": len(requests), "tokens_per_prompt": TOKENS, "repeats": repeats, "lines": lines
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for one in lines:
        click.echo(
            f"B={one['batch_size']:<3} {one['plan']:<12} {one['tokens_per_second']:>8} tok/s  "
            f"block efficiency {one['block_efficiency']:<6} x{one['ratio_to_plain']} {one['ratio_range']}"
        )


if __name__ == "__main__":
    main()
