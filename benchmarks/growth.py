"""How cost grows: with the records of a run, the text, the vocabulary, the rows, and the length and number of drafts.

    python benchmarks/growth.py build/demo/bundle                            # all parts
    python benchmarks/growth.py build/demo/bundle --part context --part rows
    python benchmarks/growth.py build/demo/bundle --small --output build/growth.json

The parts, each over sizes of one kind:

- records: what `memory.py` found of whole runs around a decoder that has no models; it is copied from its result file.
- context: reading a text, a pass of the target, and whole rounds behind texts of that length. The pair has learnt
  nothing behind its first 512 positions, so this is for the time alone.
- vocabulary: selection over peaked laws as in `selection.py`, alone and with drawing the drafts; and rounds of random
  models of the pair's sizes, with embeddings and an output layer of that width. Eight rows, four paths of four tokens,
  of `single` one.
- rows: rounds of a decoder over demo prompts, until the first row ends, so that all rows are filled; and the tokens
  that a row writes in a round, which are those of all rows of the part together.
- length and drafts: rounds of `kseq` with one path of L tokens, and with K paths of four, at one row and at eight; what
  is neither drafting nor the target's pass is "the rest": selection, and committing what it chose.

In every repeat all sizes are measured, the order turning; a measurement of rounds is the median of a few, without the
first. Reported are medians over the repeats with their range. Each curve has its power, the slope between its ends on
logarithmic scales, and the line a + b n that lies nearest in proportion, with the largest deviation from it.
The figure needs matplotlib: `pip install '.[bench]'`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import memory
from decoding import open_decoder, read_requests
from figures.growth import draw
from machine import machine
from papers.growth_curves import Curves, collect, describe, short
from reading import read
from regret import run_rounds
from selection import Cell
from selection import measure as measure_selection
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_export.storing.save import save_model
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.bundle import Limits
from spectr_runtime.speculation.pair import Pair

RESULT = Path(__file__).parent / "results" / "growth.json"
PLANS = (Plan.plain(), Plan("race", 1, 4), Plan("kseq", 2, 4))
WIDE = Plan("kseq", 4, 4)
RULES = ("kseq", "race", "rrsw", "otm")
ROWS, LENGTH, ROUNDS, SELECTIONS = 8, 96, 4, 3
PROMPT, WRITTEN = 32, 24  # tokens of the prompts of the rows, and tokens behind each


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """What is measured; ``repeats`` of all of it."""

    context: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
    vocabulary: tuple[int, ...] = (4096, 16_384, 65_536, 262_144)
    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    length: tuple[int, ...] = (1, 2, 4, 8, 16)
    drafts: tuple[int, ...] = (1, 2, 4, 8)
    repeats: int = 5


SMALL = Sizes((64, 128), (512, 1024), (1, 2), (1, 2), (1, 2), repeats=2)


def phases(pair: Pair, plans: Sequence[Plan], vocabulary: int, rows: int, length: int) -> dict[Plan, Curves]:
    """Milliseconds of a round of each plan and of its phases; medians of ``ROUNDS``, in turns and behind one more."""
    measured = run_rounds(pair, [*plans] * (1 + ROUNDS), vocabulary, rows, length)
    return {
        plan: {
            "round": median_ms(one.total for one in rounds),
            "drafting": median_ms(one.draft for one in rounds),
            "pass": median_ms(one.verify for one in rounds),
            "rest": median_ms(one.total - one.draft - one.verify for one in rounds),
        }
        for plan, rounds in measured.items()
    }


def median_ms(seconds: Iterable[float]) -> float:
    """The median in milliseconds."""
    return 1e3 * statistics.median(seconds)


def open_pair(bundle: Bundle, plans: Sequence[Plan], rows: int) -> Pair:
    """The models on the CPU."""
    return Pair(bundle, plans, backend="onnxruntime", device="cpu", rows=rows)


def records(_bundle: Bundle, _sizes: Sizes) -> dict[str, Any]:
    """What ``memory.py`` found, as curves."""
    result = json.loads(memory.RESULT.read_text(encoding="utf-8"))
    counts, runs = [run["records"] for run in result["runs"]], result.pop("runs")
    curves = {
        "seconds of the run": [[run["seconds"]] for run in runs],
        "MiB, largest": [[max(run["peak_mib"].values())] for run in runs],
    }
    described = {name: describe(counts, values) for name, values in curves.items()}
    return result | {"sizes": counts, "repeats": 1, "curves": described}


def context(bundle: Bundle, sizes: Sizes) -> dict[str, Any]:
    """Reading, passes and rounds over the tokens of the text."""
    pair = open_pair(reaching(bundle, max(sizes.context)), PLANS, 1)
    vocabulary, chunk = bundle.manifest.vocabulary.size, bundle.manifest.limits.tokens_per_call

    def measure(tokens: int) -> Curves:
        pair.restart(1)
        started = time.perf_counter()
        read(pair.target, [[place % vocabulary for place in range(tokens + 1)]], chunk)
        found = {"reading": 1e3 * (time.perf_counter() - started)}
        for plan, one in phases(pair, PLANS, vocabulary, 1, tokens).items():
            found |= {f"round, {plan}": one["round"], f"pass over {plan.tree.size}": one["pass"]}
        return found

    return collect(sizes.context, sizes.repeats, measure)


def reaching(bundle: Bundle, tokens: int) -> Bundle:
    """The bundle as if its models had learnt texts of so many tokens; its graphs compute positions as far as asked."""
    manifest = bundle.manifest
    models = {role: dataclasses.replace(spec, max_positions=2 * tokens) for role, spec in manifest.models.items()}
    limits = Limits(tokens, manifest.limits.tokens_per_call)
    return Bundle(bundle.path, dataclasses.replace(manifest, models=models, limits=limits))


def vocabulary(bundle: Bundle, sizes: Sizes) -> dict[str, Any]:
    """Selection, and a round of random models, over the width of the vocabulary."""
    plans = (WIDE, Plan.plain())
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        pairs = {
            size: open_pair(random_pair(Path(folder) / str(size), bundle, size), plans, ROWS)
            for size in sizes.vocabulary
        }

        def measure(size: int) -> Curves:
            seconds = 2.0
            lines = measure_selection(Cell(size, ROWS, WIDE.drafts, WIDE.length), RULES, seconds, SELECTIONS)
            lines += measure_selection(Cell(size, ROWS, 1, WIDE.length), ("single",), seconds, SELECTIONS)
            wide, plain = phases(pairs[size], plans, size, ROWS, LENGTH).values()
            return {
                **{f"selection, {one['rule']}": one["select_ms"] for one in lines},
                **{f"with drawing, {one['rule']}": one["draw_ms"] + one["select_ms"] for one in lines},
                **wide,
                "rest, of the round": wide["rest"] / wide["round"],
                "plain pass": plain["pass"],
            }

        return collect(sizes.vocabulary, sizes.repeats, measure)


def random_pair(folder: Path, bundle: Bundle, size: int) -> Bundle:
    """A pair of random models of the same sizes but for the vocabulary."""
    specs = {}
    for role in bundle.manifest.roles:
        config = AutoConfig.from_pretrained(bundle.model(role))
        config.vocab_size = size
        model = AutoModelForCausalLM.from_config(config).eval()
        save_model(model, folder / role)
        specs[role] = measure_spec(model)
        export_graph(folder / role, specs[role])
    written = dataclasses.replace(bundle.manifest.vocabulary, size=size)
    return Bundle(folder, dataclasses.replace(bundle.manifest, models=specs, vocabulary=written))


def rows(bundle: Bundle, sizes: Sizes) -> dict[str, Any]:
    """Full rounds of a decoder over the rows of its batch."""
    requests = read_requests(bundle, max(sizes.rows), PROMPT, temperature=1.0)
    decoders = {plan: open_decoder(bundle, plan, len(requests), "onnxruntime")[0] for plan in PLANS}
    counts: dict[Plan, Counter[str]] = {plan: Counter() for plan in PLANS}
    turns = itertools.count()

    def measure(size: int) -> Curves:
        chosen = named(requests[:size], next(turns))
        found = {plan: full_round(decoders[plan], chosen, counts[plan]) for plan in PLANS}
        plain = found[Plan.plain()]
        times = {f"round, {plan}": 1e3 * seconds for plan, seconds in found.items()}
        return times | {f"round to plain's, {plan}": seconds / plain for plan, seconds in found.items() if plan.drafts}

    grown = collect(sizes.rows, sizes.repeats, measure)
    per_round = {str(plan): short(1 + one["accepted"] / one["rounds"]) for plan, one in counts.items()}
    return grown | {"tokens_per_round": per_round}


def named(requests: Sequence[Request], turn: int) -> list[Request]:
    """The requests under names of their own, so that they draw other texts."""
    params = SamplingParams(max_tokens=WRITTEN, ignore_eos=True)
    return [dataclasses.replace(one, id=f"{turn}-{place}", params=params) for place, one in enumerate(requests)]


def full_round(decoder: Decoder, requests: Sequence[Request], counts: Counter[str]) -> float:
    """Seconds of a round while no row has ended; decodes all, and counts rounds and accepted drafts of the rows."""
    reading, before = decoder.timing.prefill, decoder.rounds.total()
    outcomes, started = decoder.generate(requests), time.perf_counter()
    ended = [next(outcomes)]
    seconds = time.perf_counter() - started - (decoder.timing.prefill - reading)
    found = seconds / (decoder.rounds.total() - before)
    for one in (*ended, *outcomes):
        if not isinstance(one, Completion):
            raise click.ClickException(f"row {one.id} failed: {one.error}")
        counts.update(rounds=one.speculation.rounds, accepted=one.speculation.accepted)
    return found


def length(bundle: Bundle, sizes: Sizes) -> dict[str, Any]:
    """Rounds over the length of a single path."""
    return over_plans(bundle, sizes.length, sizes.repeats, lambda size: Plan("kseq", 1, size))


def drafts(bundle: Bundle, sizes: Sizes) -> dict[str, Any]:
    """Rounds over the number of paths."""
    return over_plans(bundle, sizes.drafts, sizes.repeats, lambda size: Plan("kseq", size, 4))


def over_plans(bundle: Bundle, sizes: Sequence[int], repeats: int, plan_of: Callable[[int], Plan]) -> dict[str, Any]:
    """Rounds of some plans at one row and at eight."""
    pair = open_pair(bundle, [plan_of(size) for size in sizes], ROWS)

    def measure(size: int) -> Curves:
        found: dict[str, float] = {}
        for count, name in ((1, "1 row"), (ROWS, f"{ROWS} rows")):
            pair.restart(count)
            (one,) = phases(pair, [plan_of(size)], bundle.manifest.vocabulary.size, count, LENGTH).values()
            found |= {f"{phase}, {name}": milliseconds for phase, milliseconds in one.items()}
        return found

    return collect(sizes, repeats, measure)


PARTS: Mapping[str, Callable[[Bundle, Sizes], dict[str, Any]]] = {
    "records": records, "context": context, "vocabulary": vocabulary, "rows": rows, "length": length, "drafts": drafts,
}  # fmt: skip


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), default=tuple(PARTS), help="Parts.")
@click.option("--small", is_flag=True, help="Few small sizes, to see that it runs.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="Result file; parts are merged.")
def main(bundle: Path, parts: tuple[str, ...], small: bool, output: Path) -> None:
    """Measure, write the result file part by part, and draw the figure beside it."""
    sizes, opened = SMALL if small else Sizes(), Bundle.open(bundle)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        for part in parts:
            click.echo(part, err=True)
            started = time.perf_counter()
            found = machine() | PARTS[part](opened, sizes) | {"seconds": round(time.perf_counter() - started)}
            kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
            result = {name: (kept | {part: found})[name] for name in PARTS if name in kept or name == part}
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            for name, curve in found["curves"].items():
                click.echo(f"{part}: {name} grows with the power {curve['power']}; {curve['line']}")
    draw(result, output)


if __name__ == "__main__":
    main()
