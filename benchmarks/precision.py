"""What each precision costs and gives: what rounding loses, and a target's quantised copies as its drafts.

    python benchmarks/precision.py
    python benchmarks/precision.py --part losses path/to/another/checkpoint

Two parts. ``losses``: what ways to round the demo target to int4 lose, and other checkpoints that are named
(``rounding.py``). ``copies``: what int8 and int4 copies of the demo target lose on a text (as transformers computes,
and through ONNX Runtime's fused kernels, which round activations as well), how often such a draft agrees with the
target (1 - TV, on the demo prompts), and tokens per second with it as draft. ``calls.py`` measures single calls.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from decoding import decode, line, open_decoder, read_requests
from machine import machine
from rounding import measure_losses
from transformers import AutoTokenizer

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_export.text import WINDOW, Texts
from spectr_runtime import Bundle, Plan, Request, open_engine
from spectr_runtime.bundle import Role
from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import block_mask, triangle

PAIR = Path(__file__).parent.parent / "examples" / "demo_pair"
COPIES = ("int8", "int4")
PARTS = ("losses", "copies")
PROMPT_TOKENS = 64
PLANS = (Plan.plain(), Plan("single", 1, 4), Plan("kseq", 4, 4))


def read(engine: Engine, ids: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [T, V] behind every token of a text of up to ``WINDOW`` tokens."""
    count, first_B = len(ids), torch.tensor([0])
    places = torch.arange(count)[None]
    mask = block_mask(first_B, triangle(count, torch.device("cpu")), count)
    return engine.forward(Call(torch.tensor([ids]), places, mask, first_B, places))[0].log_softmax(-1)


def nats(engine: Engine, ids: Sequence[int]) -> float:
    """Mean cross entropy of a text as an engine computes it, window by window as the build does."""
    losses = []
    for start in range(0, len(ids) - 1, WINDOW):
        window = list(ids[start : start + WINDOW])
        laws = read(engine, window)[:-1]
        losses.append(-laws.gather(1, torch.tensor(window[1:])[:, None])[:, 0])
    return float(torch.cat(losses).mean())


def agreement(target: Engine, draft: Engine, texts: Sequence[Sequence[int]]) -> float:
    """Mean 1 - TV of the two laws, over every place of the texts."""
    overlaps = []
    for ids in texts:
        laws = read(target, ids).exp().clone()
        overlaps.append(torch.minimum(laws, read(draft, ids).exp()).sum(-1))
    return float(torch.cat(overlaps).mean())


def measure_copy(model: Path, copy: str, folder: Path, prompts: int, repeats: int) -> dict[str, object]:
    """A model with its quantised copy as draft."""
    build(BuildOptions(str(model), copy), folder, say=lambda line: None)
    bundle = Bundle.open(folder)
    tokenizer = AutoTokenizer.from_pretrained(bundle.tokenizer)
    engines = {role: _open(bundle, role, 1, WINDOW) for role in ("target", "draft")}
    ids = Texts.of(None, tokenizer, bundle.manifest.vocabulary.size).measured
    requests = read_requests(bundle, prompts, PROMPT_TOKENS, 1.0)
    texts = [request.prompt for request in requests]
    quality = bundle.manifest.quality["draft"]
    target_nats, draft_nats = nats(engines["target"], ids), nats(engines["draft"], ids)
    return {
        "draft": copy,
        "bytes": (folder / "draft" / "model.safetensors").stat().st_size,
        "target_bytes": (folder / "target" / "model.safetensors").stat().st_size,
        "nats_per_token": round(quality["original"], 4),
        "lost": round(quality["lost"], 4),
        "lost_through_onnxruntime": round(draft_nats - target_nats, 4),
        "agreement": round(agreement(engines["target"], engines["draft"], texts), 4),
        "plans": measure_plans(bundle, requests, repeats),
    }


def measure_plans(bundle: Bundle, requests: list[Request], repeats: int) -> list[dict[str, Any]]:
    """A line for each plan at one row, as ``decoding.py`` has it; the first of the interleaved repeats is left out."""
    opened = [open_decoder(bundle, plan, 1, "onnxruntime") for plan in PLANS]
    runs = [[decode(*one, requests) for one in opened] for _ in range(repeats + 1)][1:]
    by_plan = [list(taken) for taken in zip(*runs, strict=True)]
    return [line(plan, 1, taken, by_plan[0]) for plan, taken in zip(PLANS, by_plan, strict=True)]


def _open(bundle: Bundle, role: Role, rows: int, capacity: int) -> Engine:
    return open_engine(bundle, role, backend="onnxruntime", device="cpu", rows=rows, capacity=capacity)


@click.command()
@click.argument("checkpoints", type=click.Path(path_type=Path, exists=True), nargs=-1)
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True),
    default=PAIR / "target",
    help="Another than the demo target.",
)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="What to measure.")
@click.option("--prompts", default=24, help="Demo prompts to decode.")
@click.option("--repeats", default=5, help="Interleaved repeats of decoding.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "precision.json")
def main(
    checkpoints: tuple[Path, ...], model: Path, parts: tuple[str, ...], prompts: int, repeats: int, output: Path
) -> None:
    """Measure and write the result file; CHECKPOINTS are models whose losses are measured beside the demo target's."""
    result: dict[str, object] = dict(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "losses" in parts:
            result["losses"] = {path.name: measure_losses(path) for path in (model, *checkpoints)}
        if "copies" in parts:
            copies = [measure_copy(model, copy, folder / copy, prompts, repeats) for copy in COPIES]
            result |= {"prompts": prompts, "repeats": repeats, "copies": copies}
    text = json.dumps(result, indent=1)
    output.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
