"""SpecTr's headline experiment, measured with the product, and a model that predicts the speed of every cell.

    python benchmarks/headline.py build/demo/bundle --name padded        # some 20 minutes; --rows 1 takes 8
    python benchmarks/headline.py build/demo/bundle --name padded --small --output build/headline.json
    python benchmarks/headline.py --part like-quality                      # some 8 minutes, no bundle

Plain decoding, single drafts and K-SEQ decode the same prompts at temperature 1; every repeat has other noise, and the
order turns. Block efficiency is one plus the accepted drafts per pass of the target. Between the batches, bare calls
of the engines are timed, and rounds for what is no call, which is all that ``papers/headline_model.py`` predicts speeds
from, but for the number of passes. Block efficiencies that all plans of as many drafts tell together then say what the
plans would do on a GPU, as foretold by ``gpu_day/predict.py``.

With ``--part like-quality`` the draft of the small pair is made worse, until a single draft has the block efficiency
that the paper reports for it; that of K-SEQ can then be set beside the paper's.

All plans decode with the same engines and caches, one after the other. The figure needs matplotlib.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from decoding import Clock, ratios, read_requests
from figures.headline import draw
from machine import machine
from papers.headline_cells import PROMPT, TOKENS, Cell, Run
from papers.headline_model import PLAIN, PLANS, Parts, efficiency, holds, on_gpu, pooled
from papers.headline_quality import like_quality

from spectr_runtime import Bundle, Plan, Request

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "headline.json"
GPU_ROWS = (1, 8)


def measure(bundle: Bundle, rows: int, requests: Sequence[Request], repeats: int) -> dict[str, Any]:
    """Decode with all plans in turns, and return a line for each."""
    engines: dict[str, Clock] = {}
    # The largest tree comes first: its caches are large enough for all.
    cells = {plan: Cell(bundle, plan, rows, engines) for plan in sorted(PLANS, key=lambda plan: -plan.tree.size)}
    short = dataclasses.replace(requests[0], params=dataclasses.replace(requests[0].params, max_tokens=2))
    for cell in cells.values():
        cell.decode([short])
    runs: dict[Plan, list[Run]] = {plan: [] for plan in PLANS}
    for repeat in range(repeats):
        other = [dataclasses.replace(request, id=f"{request.id} {repeat}") for request in requests]
        for place in range(len(PLANS)):
            plan = PLANS[(place + repeat * len(PLANS) // repeats) % len(PLANS)]
            runs[plan].append(cells[plan].run(other))
            click.echo(f"{rows} rows, {plan}: {runs[plan][-1].speed:.1f} tok/s", err=True)
    lines = [line(plan, runs) for plan in PLANS]
    right = sum(one["predicted"]["holds"] for one in lines)
    return {"prompts": len(requests), "cells": lines, "predictions_that_hold": right}


def line(plan: Plan, runs: dict[Plan, list[Run]]) -> dict[str, Any]:
    """The figures of a plan beside those of all others."""
    taken, rows = runs[plan], [row for run in runs[plan] for row in run.depths]
    tokens, error = efficiency([rounds for rounds, _ in rows], [sum(reached) for _, reached in rows])
    guessed = [run.tokens / run.predicted for run in taken]
    ratio = sorted(run.seconds / run.predicted for run in taken)
    compared = {"to_plain": ratios(taken, runs[PLAIN])}  # type: ignore[arg-type]
    if plan.rule == "kseq":
        compared["to_single"] = ratios(taken, runs[Plan("single", 1, plan.length)])  # type: ignore[arg-type]
    alike = [row for other in PLANS if other.drafts == plan.drafts for run in runs[other] for row in run.depths]
    return {
        "plan": str(plan), "drafts": plan.drafts, "length": plan.length,
        "block_efficiency": round(tokens, 3), "standard_error": round(error, 3),
        "pooled_block_efficiency": round(pooled(alike, plan.length), 3),
        "tokens_per_pass": round(sum(run.tokens for run in taken) / sum(rounds for rounds, _ in rows), 3),
        "tokens_per_second": round(statistics.median(run.speed for run in taken), 2), **compared,
        "shares": {
            name: round(statistics.median(run.phases[name] / run.seconds for run in taken), 4)
            for name in taken[0].phases
        },
        "milliseconds": milliseconds([run.full for run in taken]),
        "predicted": {
            "tokens_per_second": round(statistics.median(guessed), 2),
            "to_measured": {
                "median": round(statistics.median(ratio), 3), "least": round(ratio[0], 3), "most": round(ratio[-1], 3)
            },
            "holds": holds(guessed, [run.speed for run in taken]),
        },
    }  # fmt: skip


def milliseconds(parts: Sequence[Parts]) -> dict[str, float]:
    """Medians of what was timed."""
    columns = zip(*map(dataclasses.astuple, parts), strict=True)
    names = [field.name for field in dataclasses.fields(Parts)]
    return {name: round(1e3 * statistics.median(column), 3) for name, column in zip(names, columns, strict=True)}


def on_gpu_at(accepted: dict[Plan, float]) -> list[dict[str, Any]]:
    """What a GPU would make of tokens per pass that were measured here."""
    sys.path.append(str(ROOT / "examples"))  # which predicting imports from
    with tempfile.TemporaryDirectory() as folder:
        return on_gpu({name_on_gpu(plan): tokens for plan, tokens in accepted.items()}, Path(folder), GPU_ROWS)


def name_on_gpu(plan: Plan) -> str:
    """The name of a plan in ``gpu_day``; a single draft is what K-SEQ makes of one path."""
    if plan == PLAIN:
        return str(plan)
    return f"single:1:{plan.length}" if plan.drafts == 1 else f"kseq:{plan.drafts}:{plan.length}"


def show(rows: str, facts: dict[str, Any]) -> None:
    """Print what was measured with so many rows."""
    for one in facts["cells"]:
        guess = one["predicted"]
        measured = f"{one['block_efficiency']:.2f} ({one['standard_error']:.2f})  {one['tokens_per_second']:>7} tok/s"
        right = f"{guess['to_measured']['median']:.2f}{'' if guess['holds'] else ' misses'}"
        click.echo(
            f"B={rows:<3} {one['plan']:<14} block efficiency {measured}  x{one['to_plain']['median']:.2f}  "
            f"predicted/measured {right}"
        )
    click.echo(f"{facts['predictions_that_hold']} of {len(facts['cells'])} predictions hold")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--name", help="Of the models, in the result file.")
@click.option("--part", type=click.Choice(["speed", "like-quality"]), default="speed", help="What is measured.")
@click.option(
    "--rows", "row_counts", multiple=True, type=click.IntRange(1), default=(1, 8), help="Rows decoded together."
)
@click.option(
    "--prompts",
    type=click.IntRange(2),
    default=6,
    help="For one row; as many as rows for more.",
)
@click.option("--repeats", type=click.IntRange(1), default=3, help="Interleaved repeats.")
@click.option("--small", is_flag=True, help="One row, two prompts, few tokens and contexts: whether it all runs.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The figure is put beside it.")
def main(
    bundle: Path | None,
    name: str | None,
    part: str,
    row_counts: tuple[int, ...],
    prompts: int,
    repeats: int,
    small: bool,
    output: Path,
) -> None:
    """Measure and write the result file."""
    kept: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    if part == "like-quality":
        kept[part] = machine() | (like_quality(32, 1) if small else like_quality(256, 4))
        for way in kept[part]["ways"].values():
            found = {Plan("kseq", one["drafts"], one["length"]): one["block_efficiency"] for one in way["kseq"]}
            way["on_gpu"] = on_gpu_at({PLAIN: 1.0} | found)
    elif bundle is None or name is None:
        raise click.UsageError("Give a bundle and --name, or --part like-quality.")
    else:
        sizes = (2, 1, 6) if small else (prompts, repeats, TOKENS)
        pairs = kept.setdefault("pairs", {})
        pairs[name] = machine() | compare(Bundle.open(bundle), (1,) if small else row_counts, *sizes)
        draw(pairs, output.with_suffix(".svg"))
    output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def compare(bundle: Bundle, row_counts: Sequence[int], prompts: int, repeats: int, tokens: int) -> dict[str, Any]:
    """Measure with every number of rows, and foretell."""
    by_rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for rows in row_counts:
            requests = [
                dataclasses.replace(request, params=dataclasses.replace(request.params, max_tokens=tokens))
                for request in read_requests(bundle, prompts if rows == 1 else rows, PROMPT, temperature=1.0)
            ]
            by_rows[str(rows)] = measure(bundle, rows, requests, repeats)
            show(str(rows), by_rows[str(rows)])
        # The law does not depend on the rows, but the fewer there are, the more cells were measured with it.
        cells = next(iter(by_rows.values()))["cells"]
        pooled_of = {plan: one["pooled_block_efficiency"] for plan, one in zip(PLANS, cells, strict=True)}
        gpu = on_gpu_at({plan: tokens for plan, tokens in pooled_of.items() if plan.rule != "single"})
    return {
        "prompt_tokens": PROMPT, "tokens_per_prompt": tokens, "repeats": repeats, "rows": by_rows, "on_gpu": gpu
    }  # fmt: skip


if __name__ == "__main__":
    main()
