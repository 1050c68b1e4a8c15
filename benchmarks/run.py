"""All benchmarks one after the other: in small, within some minutes, or whole, as the result files have them.

    python benchmarks/run.py                       # small: into a temporary folder, to see that every script works
    python benchmarks/run.py --only draw           # one step
    python benchmarks/run.py --full                # whole: writes the result files and the documents; takes a day

`make benchmarks` and `make benchmarks-full` make what the steps need before. A step that fails leaves the others be; a
table at the end says how each ended, how long it took, and of what was skipped the reason. Comparisons want a machine
with nothing beside them.
"""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
TOLD = 15  # lines of what a step that failed said last
FEW = 4  # prompts of a small run
SMALL = {"OMP_NUM_THREADS": "1"}  # so small sizes are not worth a second thread, which would wait for the first


@dataclass(frozen=True, slots=True)
class Step:
    """A script and how it is run.

    Commands begin with a script, or with a command of spectr, and may name places in braces: `{pair}`, `{demo}` and
    `{headed}` are bundles, `{checkpoint}` is a model, `{folder}` is where the run works, and `{out}` a file there.

    Attributes:
        name: The script's, without its ending.
        small: The commands of a small run, which write to `{out}` or `{folder}`; none if there is no small run.
        full: The commands of a whole run, which write the result file; none if there is no whole run.
        needs: What it needs beside the places that its commands name: names of ``NEEDS``.
        reason: Why there is no small or whole run, where there is none.
    """

    name: str
    small: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    reason: str = ""


def usual(name: str, small: str = "", full: str = "") -> Step:
    """A script with `--small` and `--output`, and its arguments for either kind of run."""
    return Step(name, (f"{name}.py {small} --small --output {{out}}",), (f"{name}.py {full}",))


# In the order in which they are run: some read what others recorded, and documents are written from results.
STEPS = (
    Step(
        "acceptance",
        ("acceptance.py --positions 1 --prompts {prompts} --rounds 32 --drafts 2 --output {out}",),
        ("acceptance.py",),
        ("bench",),
    ),
    Step(
        "selection",
        (
            "selection.py --vocabulary 4096 --rows 1 --drafts 1 --drafts 2 --length 4 --seconds 0.02 --repeats 2 "
            "--output {out}",
        ),
        ("selection.py",),
        ("bench",),
    ),
    Step(
        "headline",
        (
            "headline.py {pair} --name small --small --output {out}",
            "headline.py --part like-quality --small --output {out}",
        ),
        (
            "headline.py {demo} --name padded",
            "spectr-export build {checkpoint} --draft int8 --capacity 1024 -o {folder}/chat",
            "headline.py {folder}/chat --name SmolLM2-135M --rows 1",
            "headline.py --part like-quality",
        ),
        ("bench",),
    ),
    usual("readers", "{pair}", "{demo}"),
    usual("ersd"),
    usual("newest"),
    Step("draw", ("draw.py --repeats 3 --output {out}",), ("draw.py",)),
    Step("fused", ("fused.py --vocabulary 4096 --rows 1 --repeats 3 --output {out}",), ("fused.py",), ("compiler",)),
    Step(
        "decoding",
        (
            "decoding.py {pair} --name small --batch-size 2 --repeats 1 --prompts 2 --output {out}",
            "decoding.py {pair} --name one-shape --one-shape --batch-size 2 --repeats 1 --prompts 2 --output {out}",
        ),
        (
            "decoding.py {demo} --name 'padded, float32'",
            "examples/pad_target.py examples/demo_pair/target {folder}/wider --mlp 3584",
            "spectr-export build {folder}/wider --draft examples/demo_pair/draft -o {folder}/int4 --quantise int4",
            "decoding.py {folder}/int4 --name 'padded to 146 million, int4' --batch-size 1 --prompts 4",
            "decoding.py {pair} --name demo-one-shape --one-shape --batch-size 8",
        ),
    ),
    Step(
        "drafts",
        (
            "drafts.py {pair} --name small --work code --rows 1 --temperature 0 --repeats 1 --prompts 1 --tokens 16 "
            "--output {out}",
        ),
        (
            "spectr-export build {checkpoint} --draft int8 -o {folder}/chat",
            "drafts.py {folder}/chat --name SmolLM2-135M --chat",
            "drafts.py {headed} --name 'padded target with a head' --rows 1 --temperature 0",
            "drafts.py {demo} --name 'padded pair' --rows 1 --temperature 0",
        ),
    ),
    Step(
        "regret",
        ("regret.py {pair} --name small --output {out}",),
        (
            "regret.py {demo} --name 'padded, float32'",
            "spectr-export build build/demo/target --draft examples/demo_pair/draft -o {folder}/int8 --quantise int8",
            "regret.py {folder}/int8 --name 'padded, int8'",
        ),
    ),
    Step("shapes", ("shapes.py --output {out}",), ("shapes.py",)),
    Step(
        "reading",
        ("reading.py {pair} --tokens 16 --rows 1 --rows 2 --repeats 2 --output {out}",),
        ("reading.py {demo}",),
    ),
    Step("host", ("host.py {pair} --rows 8 --written 1024 --output {out}",), ("host.py {demo}",)),
    Step(
        "cache",
        ("cache.py --input short --capacity 2048 --records 1 --output {out}",),
        ("cache.py",),
    ),
    Step("memory", ("memory.py {pair} --records 1000 --output {out}",), ("memory.py {pair}",), ("bench",)),
    usual("growth", "{pair}", "{demo}"),
    Step(
        "audit",
        ("audit.py {pair} --prompts 4 --choices 1 --max-tokens 16 --tokens 50 --audits 5 --output {out}",),
        ("audit.py {pair}",),
    ),
    Step(
        "startup",
        (
            "spectr-batch run {pair} {prompts} -o {folder}/run --max-tokens 4 --limit 4",
            "startup.py {pair} {folder}/run --repeats 2 --output {out}",
        ),
        ("spectr-batch run {demo} examples/prompts.jsonl -o {folder}/run --limit 16", "startup.py {demo} {folder}/run"),
    ),
    Step("graph", ("graph.py --repeats 1 --layers 2 --output {out}",), ("graph.py",)),
    Step("export", ("export.py --model demo --repeats 2 --output {out}",), ("export.py",), ("bench",)),
    Step(
        "calls",
        ("calls.py examples/demo_pair/draft --repeats 2 --output {out}",),
        ("calls.py {checkpoint}",),
    ),
    Step(
        "precision",
        ("precision.py --model examples/demo_pair/draft --prompts 1 --repeats 1 --output {out}",),
        ("precision.py {checkpoint}",),
    ),
    Step(
        "building", ("building.py --case demo --output {out}",), ("building.py --checkpoint {checkpoint} --case all",)
    ),
    Step("streaming", (), ("streaming.py",), reason="writes 6 GB of shards and builds for an hour"),
    Step("architectures", ("architectures.py llama --output {out}",), ("architectures.py",), ("bench",)),
    Step(
        "gpu",
        (),
        ("gpu.py --predict", "gpu.py --page benchmarks/results/gpu_predicted.json"),
        reason="measures a GPU, which a whole run foretells; its tests run it on a CPU",
    ),
    usual("budget"),
    Step("real", (), ("real.py",), reason="downloads models and builds them: `make real`"),
    Step("peers", reason="has an environment of its own: `make peers`"),
    Step("prompts", reason="has the environment of `make peers`"),
    Step("lower_bounds", reason="makes an environment of its own: `make lower-bounds`"),
    Step("where", (), ("where.py",), reason="writes a document"),
    Step("quote", ("quote.py --check",), ("quote.py",)),
)

# Why something is not there, or nothing if it is.
NEEDS: Mapping[str, Callable[[], str]] = {
    "bench": lambda: "" if all(map(find_spec, ("matplotlib", "onnxruntime_genai", "scipy"))) else "no extra `bench`",
    "compiler": lambda: "" if shutil.which("g++") else "no C++ compiler",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a step ended: with an exit code after some seconds, and some of the processor's, or skipped for a reason."""

    name: str
    code: int | None = None
    seconds: float = 0.0
    processor: float = 0.0
    reason: str = ""

    @property
    def line(self) -> str:
        """A line of the table at the end."""
        if self.code is None:
            return f"{self.name:<14}  skipped: {self.reason}"
        return f"{self.name:<14}{self.seconds:>7.1f} s {self.processor:>7.1f} s of processors  exit {self.code}"


def missing(step: Step, commands: tuple[str, ...], places: Mapping[str, Path | None]) -> str:
    """Return why a step cannot be run, or nothing if it can."""
    if not commands:
        return step.reason
    absent = [name for name, path in places.items() if f"{{{name}}}" in "".join(commands) and not there(path)]
    if absent:
        return f"no {' and no '.join(absent)}"
    return next((why for name in step.needs if (why := NEEDS[name]())), "")


def there(path: Path | None) -> bool:
    """Return whether a place is given and there."""
    return path is not None and path.exists()


def words_of(command: str, places: Mapping[str, Path | None]) -> list[str]:
    """Return a command with its program and its places."""
    program, *arguments = [word.format_map(places) for word in shlex.split(command)]
    if program.endswith(".py"):
        return [sys.executable, str(ROOT / ("" if "/" in program else "benchmarks") / program), *arguments]
    return [str(Path(sys.executable).with_name(program)), *arguments]


def run(
    step: Step, commands: tuple[str, ...], places: Mapping[str, Path | None], folder: Path, variables: Mapping[str, str]
) -> Ended:
    """Run the commands of a step until one fails; what they print goes to a file, and its end is shown if one does."""
    log, started, before, code = folder / f"{step.name}.log", time.perf_counter(), processor_seconds(), 0
    places = {**places, "folder": folder, "out": folder / f"{step.name}.json"}
    with log.open("w", encoding="utf-8") as file:
        for command in commands:
            words, surroundings = words_of(command, places), os.environ | variables
            done = subprocess.run(words, cwd=ROOT, env=surroundings, stdout=file, stderr=file, check=False)
            if code := done.returncode:
                break
    ended = Ended(step.name, code, time.perf_counter() - started, processor_seconds() - before)
    click.echo(ended.line)
    if code:
        click.echo("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-TOLD:]), err=True)
    return ended


def processor_seconds() -> float:
    """Return what all processes that were started and have ended took so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def few_prompts(folder: Path) -> Path:
    """Write the first demo prompts."""
    lines = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    path = folder / "prompts.jsonl"
    path.write_text("".join(lines[:FEW]), encoding="utf-8")
    return path


@click.command()
@click.option("--full", is_flag=True, help="Whole, into the result files and the documents.")
@click.option("--only", "names", multiple=True, type=click.Choice([step.name for step in STEPS]), help="Only these.")
@click.option("--pair", type=click.Path(path_type=Path), default=ROOT / "build" / "pair", help="Bundle, small.")
@click.option("--demo", type=click.Path(path_type=Path), default=ROOT / "build" / "demo" / "bundle", help="Bundle.")
@click.option("--headed", type=click.Path(path_type=Path), default=ROOT / "build" / "demo" / "headed", help="Bundle.")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="A Llama, such as SmolLM2-135M-Instruct.")
def main(full: bool, names: tuple[str, ...], **places: Path | None) -> None:
    """Run all steps, and say how each ended."""
    ended = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        places = {name: path and path.absolute() for name, path in places.items()} | {"prompts": few_prompts(folder)}
        for step in STEPS:
            if names and step.name not in names:
                continue
            commands = step.full if full else step.small
            reason = missing(step, commands, places)
            ended.append(
                Ended(step.name, reason=reason)
                if reason
                else run(step, commands, places, folder, {} if full else SMALL)
            )
    click.echo("\n" + "\n".join(one.line for one in ended))
    click.echo(f"{sum(one.seconds for one in ended):.0f} seconds, {processor_seconds():.0f} of processors")
    sys.exit(any(one.code for one in ended))


if __name__ == "__main__":
    main()
