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
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from decoding import decode, read_requests
from machine import machine
from rounding import measure_losses
from transformers import AutoTokenizer

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_export.text import WINDOW, Texts
from spectr_runtime import Bundle, Decoder, Plan, open_engine
from spectr_runtime.bundle import Role
from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import block_mask, triangle

PAIR = Path(__file__).parent.parent / "examples" / "demo_pair"
COPIES = ("int8", "int4")
PARTS = ("losses", "copies")
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


def measure_copy(copy: str, folder: Path, prompts: int, repeats: int) -> dict[str, object]:
    """The demo target with its quantised copy as draft."""
    build(BuildOptions(str(PAIR / "target"), copy), folder, say=lambda line: None)
    bundle = Bundle.open(folder)
    tokenizer = AutoTokenizer.from_pretrained(bundle.tokenizer)
    engines = {role: _open(bundle, role, 1, WINDOW) for role in ("target", "draft")}
    ids = Texts.of(None, tokenizer, bundle.manifest.vocabulary.size).measured
    requests = read_requests(prompts)
    texts = [tokenizer(str(request.prompt))["input_ids"][:WINDOW] for request in requests]
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


def measure_plans(bundle: Bundle, requests: list, repeats: int) -> list[dict[str, object]]:  # type: ignore[type-arg]
    """Tokens per second of each plan at one row, interleaved, and its ratio to plain decoding in the same repeat."""
    decoders = [Decoder(bundle, plan=plan, batch_size=1) for plan in PLANS]
    runs = [[decode(decoder, requests) for decoder in decoders] for _ in range(repeats + 1)][1:]
    lines = []
    for place, plan in enumerate(PLANS):
        ratios = sorted(run[place]["tokens_per_second"] / run[0]["tokens_per_second"] for run in runs)
        lines.append(
            {
                "plan": str(plan),
                "tokens_per_second": round(statistics.median(run[place]["tokens_per_second"] for run in runs), 1),
                "block_efficiency": round(runs[0][place]["block_efficiency"], 3),
                "ratio_to_plain": round(statistics.median(ratios), 3),
                "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
            }
        )
    return lines


def _open(bundle: Bundle, role: Role, rows: int, capacity: int) -> Engine:
    return open_engine(bundle, role, backend="onnxruntime", device="cpu", rows=rows, capacity=capacity)


@click.command()
@click.argument("checkpoints", type=click.Path(path_type=Path, exists=True), nargs=-1)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="What to measure.")
@click.option("--prompts", default=24, help="Demo prompts to decode.")
@click.option("--repeats", default=5, help="Interleaved repeats of decoding.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "precision.json")
def main(checkpoints: tuple[Path, ...], parts: tuple[str, ...], prompts: int, repeats: int, output: Path) -> None:
    """Measure and write the result file; CHECKPOINTS are models whose losses are measured beside the demo target's."""
    result: dict[str, object] = dict(machine())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "losses" in parts:
            result["losses"] = {path.name: measure_losses(path) for path in (PAIR / "target", *checkpoints)}
        if "copies" in parts:
            copies = [measure_copy(copy, folder / copy, prompts, repeats) for copy in COPIES]
            result |= {"prompts": prompts, "repeats": repeats, "copies": copies}
    text = json.dumps(result, indent=1)
    output.write_text(text + "\n", encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
