"""Drafts of other sizes for the demo pair's target, distilled from it in a few minutes; ``readers.py`` runs this.

All learn the target's laws on the same texts at the same steps, half of them the standard library's own, half what the
target writes after the beginnings of such texts. Their embeddings begin with the principal components of the target's,
all other weights at random. That is far less training than the demo pair's own draft had, to which its target was drawn
besides, so a draft of that size is trained anew among the others.
"""

from __future__ import annotations

import math
import statistics
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from decoding import decode, open_decoder, read_requests
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle, Plan

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
sys.path.append(str(EXAMPLES))
from train_demo_pair import (  # noqa: E402 - the folder of examples is no package
    CONTEXT,
    Schedule,
    batches,
    corpus_files,
    draft_config,
    encode,
    fit,
    read,
    save,
    write_samples,
)

# B rows, T tokens, V vocabulary, E hidden size, S components.
TARGET = EXAMPLES / "demo_pair" / "target"
SEED = 6


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of a draft; every head has 32 numbers, and two heads share keys."""

    hidden: int
    layers: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.hidden}x{self.layers}"

    @property
    def config(self) -> LlamaConfig:
        """The demo pair's draft with these sizes."""
        heads = self.hidden // 32
        sizes = {
            "hidden_size": self.hidden, "intermediate_size": 2 * self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": heads, "num_key_value_heads": max(1, heads // 2), "head_dim": 32,
        }  # fmt: skip
        return LlamaConfig.from_dict(draft_config().to_dict() | sizes)


SIZES = (Size(32, 1), Size(64, 1), Size(128, 2), Size(256, 4), Size(256, 8))


@dataclass(frozen=True, slots=True)
class Lessons:
    """How the drafts are trained.

    Attributes:
        schedule: Steps, rows of a step and rate of learning.
        rows: Texts that the target writes.
    """

    schedule: Schedule
    rows: int


FULL = Lessons(Schedule(steps=120, batch=8, learning_rate=4e-3), rows=256)
SMALL = Lessons(Schedule(steps=2, batch=2, learning_rate=4e-3), rows=4)
PROMPT = 64  # tokens of a prompt behind which calls are timed


def trained(folder: Path, lessons: Lessons) -> dict[str, Path]:
    """The folders of the drafts by their names; what is not there yet is trained, all sizes together."""
    folders = {size.name: folder / f"{size.name}-{lessons.schedule.steps}" for size in SIZES}
    if not all((one / "tokenizer.json").exists() for one in folders.values()):
        target = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(TARGET)
        learned = encode(tokenizer, read(corpus_files(Path(sysconfig.get_path("stdlib")))[0]))
        drafts = [begun(size.config, target) for size in SIZES]
        distil(target, drafts, texts(target, learned, lessons.rows), lessons.schedule)
        for draft, own in zip(drafts, folders.values(), strict=True):
            save(draft, tokenizer, own)
    return folders


def begun(config: LlamaConfig, target: LlamaForCausalLM) -> LlamaForCausalLM:
    """A draft with the principal components of the target's embedding as its own."""
    model, generator = LlamaForCausalLM(config), torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=config.initializer_range, generator=generator)
        embedding_VE = target.get_input_embeddings().weight
        axes_ES = torch.linalg.eigh(embedding_VE.T @ embedding_VE).eigenvectors.flip(1)[:, : config.hidden_size]
        model.get_input_embeddings().weight.copy_(embedding_VE @ axes_ES)
    return model


def texts(target: LlamaForCausalLM, learned: torch.Tensor, rows: int) -> torch.Tensor:
    """What the target writes, and about as much of the text that it learned, taken evenly."""
    written = write_samples(target, learned, rows, batch=rows)
    windows = learned[: len(learned) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    return torch.cat([windows[:: max(1, len(windows) // rows)].flatten(), written])


def distil(target: LlamaForCausalLM, drafts: list[LlamaForCausalLM], tokens: torch.Tensor, schedule: Schedule) -> None:
    """Train all drafts on, one pass of the target serving all: divergence at first, blended into total variation."""

    def loss_of(tokens_BT: torch.Tensor, progress: float) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                target_BTV = target(tokens_BT[:, :-1]).logits.float().softmax(-1)
            logits = [draft(tokens_BT[:, :-1]).logits.float() for draft in drafts]
        return torch.stack([lost(target_BTV, logits_BTV, progress) for logits_BTV in logits]).sum()

    fit(torch.nn.ModuleList(drafts).train(), schedule, batches(tokens, schedule, seed=SEED), loss_of, [])
    for draft in drafts:
        draft.eval()


def lost(target_BTV: torch.Tensor, logits_BTV: torch.Tensor, progress: float) -> torch.Tensor:
    """The loss of a draft, as ``train_demo_pair.py`` has it."""
    log_draft_BTV = logits_BTV.log_softmax(-1)
    divergence = F.kl_div(log_draft_BTV, target_BTV, reduction="none").sum(-1).mean()
    variation = 0.5 * (log_draft_BTV.exp() - target_BTV).abs().sum(-1).mean()
    return (1 - progress) * divergence + progress * 4 * variation


def costs(bundle: Path, drafts: dict[str, Path], prompts: int, repeats: int) -> dict[str, dict[str, Any]]:
    """What a call of each draft costs beside one of the bundle's target, both of one token of one row.

    Every model decodes the same prompts without drafts, in turns, and its calls are clocked. ``timed`` is the share of
    the target's call, its median and range over the repeats, and ``weights`` that of the target's weights.
    """
    bundles = {"target": bundle}
    for name, folder in drafts.items():
        bundles[name] = folder / "bundle"
        if not bundles[name].exists():
            build(BuildOptions(str(folder)), bundles[name], say=lambda line: click.echo(line, err=True))
    opened = {name: Bundle.open(folder) for name, folder in bundles.items()}
    decoders = {name: open_decoder(one, Plan.plain(), 1, "onnxruntime") for name, one in opened.items()}
    requests = read_requests(opened["target"], prompts, PROMPT, temperature=1.0)
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for repeat in range(repeats + 1):
        for place in range(len(decoders)):
            name = [*decoders][(place + repeat) % len(decoders)]
            run = decode(*decoders[name], requests)
            seconds[name].append(decoders[name][1][0].in_rounds / run.rounds)
    sizes = {name: parameters(folder / "target" / "model.safetensors") for name, folder in bundles.items()}
    found = {}
    for name, taken in seconds.items():
        shares = [own / whole for own, whole in zip(taken[1:], seconds["target"][1:], strict=True)]
        found[name] = {
            "parameters": sizes[name],
            "milliseconds": round(1e3 * statistics.median(taken[1:]), 3),
            "timed": [round(one, 4) for one in (statistics.median(shares), min(shares), max(shares))],
            "weights": round(sizes[name] / sizes["target"], 5),
        }
    return found


def parameters(weights: Path) -> int:
    """How many numbers a file of weights holds."""
    with safe_open(weights, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping
