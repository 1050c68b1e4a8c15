"""What whole builds take, at this revision and at an earlier one, and whether the dry run foretells it.

    python benchmarks/building.py --checkpoint SmolLM2-135M-Instruct --before 984df39
    python benchmarks/building.py --case demo --output small.json

Every build is a command in a process of its own, of which wall-clock time, processor time and peak memory (mapped files
among it) are taken, and the estimate of the dry run before it. The random models are made here; a checkpoint is built
with its copy in int8 as draft. With ``--before``, builds at the earlier revision and at this one take turns. For scale,
the time to write as many bytes as the bundle has is taken too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import torch
from machine import continues, machine

ROOT = Path(__file__).parent.parent
PAIR = ROOT / "examples" / "demo_pair"
PARTS = ("", "export", "jobs", "runtime")
MAIN = "from spectr_export.cli import main; main()"
BLOCK = 64 << 20
# Sizes of random llamas; each is built with the draft of the demo pair.
COMMON = {
    "max_position_embeddings": 1024, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
    "pad_token_id": 0,
}  # fmt: skip
LLAMAS: Mapping[str, Mapping[str, int]] = {
    "llama-125m": {
        "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
        "num_key_value_heads": 4, "vocab_size": 32_000,
    },
    "deep": {
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 40, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 16_000,
    },
    "wide": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 4, "num_attention_heads": 16,
        "num_key_value_heads": 4, "vocab_size": 16_000,
    },
    "billion": {
        "hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 5, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 16_000,
    },
}  # fmt: skip
CASES = ("demo", *LLAMAS, "checkpoint")


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """The sources of a revision, in a folder that lasts as long as the block."""
    with tempfile.TemporaryDirectory() as temporary:
        tree = Path(temporary) / "tree"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", tree, revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def write_llama(folder: Path, sizes: Mapping[str, Any]) -> Path:
    """A random llama with the demo tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**COMMON, **sizes)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PAIR / "target").save_pretrained(folder)
    return folder


def foretold(tree: Path, arguments: list[str]) -> float:
    """The seconds of the dry run's last line."""
    command = [sys.executable, "-c", MAIN, *arguments, "--dry-run"]
    done = subprocess.run(command, env=environment(tree), check=True, capture_output=True, text=True)
    number, unit = re.findall(r"about (\d+) (s|min) on two cores", done.stdout)[-1]
    return float(number) * (60 if unit == "min" else 1)


def build(tree: Path, arguments: list[str]) -> dict[str, float]:
    """Run a build and say what it took."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments, "--overwrite"],
        env=environment(tree),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"the build failed: {said.strip()[-500:]}")
    return {
        "wall_seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": round(usage.ru_maxrss * 1024 / 1e6),
    }


def environment(tree: Path) -> dict[str, str]:
    """The variables of a process that imports the sources of a tree."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(tree / part) for part in PARTS)}


def time_to_write(size: int, folder: Path) -> float:
    """Seconds until so many bytes are on the disk."""
    block, path = os.urandom(BLOCK), folder / "written"
    started = time.perf_counter()
    with path.open("wb") as file:
        for start in range(0, size, BLOCK):
            file.write(block[: size - start])
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return round(seconds, 2)


def measure(name: str, pair: list[str], trees: Mapping[str, Path], repeats: int, work: Path) -> dict[str, Any]:
    """All figures of one case: medians over the repeats, the trees in turn."""
    arguments = ["build", *pair, "-o", str(work / "bundle")]
    taken: dict[str, list[dict[str, float]]] = {label: [] for label in trees}
    load = []
    for _ in range(repeats):
        for label, tree in trees.items():
            load.append(os.getloadavg()[0])
            taken[label].append(build(tree, arguments))
            click.echo(f"{name} {label} {taken[label][-1]}", err=True)
    line: dict[str, Any] = {"case": name, "load_average": round(statistics.median(load), 1)}
    for label, runs in taken.items():
        line[label] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        line[label]["foretold_seconds"] = foretold(trees[label], arguments)
    bundle = work / "bundle"
    line["bundle_bytes"] = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    line["seconds_to_write_the_bytes"] = time_to_write(line["bundle_bytes"], work)
    shutil.rmtree(bundle)
    return line


@click.command()
@click.option("--case", "cases", multiple=True, type=click.Choice([*CASES, "all"]), help="Default: all but billion.")
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), help="Folder of the case checkpoint.")
@click.option("--before", metavar="REVISION", help="An earlier revision to build with too.")
@click.option("--repeats", default=1, show_default=True, help="Builds of each case and revision.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work; a temporary folder if none.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "benchmarks" / "results" / "building.json")
def main(
    cases: tuple[str, ...], checkpoint: Path | None, before: str | None, repeats: int, folder: Path | None, output: Path
) -> None:
    """Measure the cases and write the result file after each; those of another state are replaced."""
    usual = [name for name in CASES if name != "billion" and (name != "checkpoint" or checkpoint)]
    wanted = CASES if "all" in cases else cases or usual
    facts = machine() | {"before": before, "repeats": repeats}
    kept = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    builds = {line["case"]: line for line in kept["builds"]} if continues(kept, facts) else {}
    with contextlib.ExitStack() as stack:
        trees = {"before": stack.enter_context(checked_out(before))} if before else {}
        trees["now"] = ROOT
        for name in wanted:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
            if name == "checkpoint":
                if checkpoint is None:
                    raise click.UsageError("the case checkpoint needs --checkpoint")
                pair = [str(checkpoint), "--draft", "int8"]
            else:
                target = PAIR / "target" if name == "demo" else write_llama(work / "target", LLAMAS[name])
                pair = [str(target), "--draft", str(PAIR / "draft")]
            builds[name] = measure(name, pair, trees, repeats, work)
            shutil.rmtree(work / "target", ignore_errors=True)
            result = facts | {"builds": list(builds.values())}
            output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            click.echo(json.dumps(builds[name], indent=1))


if __name__ == "__main__":
    main()
