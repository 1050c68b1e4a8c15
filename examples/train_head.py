"""Train a small EAGLE-3 head for the demo target, on the text that the target learned.

    python examples/train_head.py examples/demo_pair/target build/demo/head --hidden 1024
    spectr-export build build/demo/target --draft build/demo/head -o build/demo/headed

The head learns as it will draft (Li et al. 2025, arXiv 2503.01840): at every place of a text it reads the target's
features up to there, and then goes on for some steps with its own states. Its loss at each step passes from the
divergence of the target's law to what is rejected of it. That takes about four minutes on two cores. What is written
has the layout of ``speculators``.

``--hidden`` makes it the head of a target that ``pad_target.py`` padded to this hidden size. Such a target's hidden
states begin with those of its source and are zero from there on, so the head, which gets columns of zeros for them,
drafts the same for both.
"""

# B rows, T tokens, C places that drafts begin at, L places that are seen, N tokens that the head scores, V vocabulary,
# E hidden size, F width of the features, P of their parts, H hidden size of the target.
from __future__ import annotations

import copy
import json
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from train_demo_pair import CONTEXT, Schedule, batches, corpus_files, encode, read
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from spectr_runtime.adapter.eagle3 import Eagle3Head, Settings
from spectr_runtime.adapter.model import entering

DEPTHS = 4
DECAY = 0.8  # by how much less a step counts than the one before it
COVERED = 0.99  # of the training text, by the tokens that the head scores
SCHEDULE = Schedule(steps=800, batch=2, learning_rate=3e-3)
HELD_OUT_ROWS = 32


def frequent(tokens: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """The fewest tokens that make up ``COVERED`` of a text, in the order of their ids; int64 [N]."""
    counts, order = torch.bincount(tokens, minlength=vocabulary).sort(descending=True, stable=True)
    needed = int((counts.cumsum(0) < COVERED * len(tokens)).sum()) + 1
    return order[:needed].sort().values


def make_head(target: LlamaForCausalLM, chosen_N: torch.Tensor) -> Eagle3Head:
    """A head with the sizes of the target's layers, its embeddings, and its output layer to begin with."""
    config, count = copy.deepcopy(target.config), target.config.num_hidden_layers
    config.num_hidden_layers, config.tie_word_embeddings = 1, False
    layers = (min(2, count // 2), count // 2 + 1, count)
    settings = Settings(len(chosen_N), layers, len(layers) * config.hidden_size, norm_before_residual=True)
    settings.to_config(config)
    head, generator = Eagle3Head(config), torch.Generator().manual_seed(0)
    model = head.model
    model.embed_tokens = nn.Embedding.from_pretrained(target.get_input_embeddings().weight)
    model.lm_head = nn.Linear(config.hidden_size, len(chosen_N), bias=False)
    with torch.no_grad():
        for parameter in [*model.fc.parameters(), *model.layers.parameters()]:
            if parameter.ndim == 2:
                parameter.normal_(std=parameter.shape[1] ** -0.5, generator=generator)
        model.lm_head.weight.copy_(target.get_output_embeddings().weight[chosen_N])
        model.norm.load_state_dict(target.model.norm.state_dict())
    model.requires_grad_(True).embed_tokens.requires_grad_(False)
    return head


@torch.no_grad()
def ask(target: LlamaForCausalLM, head: Eagle3Head, tokens_BT: torch.Tensor, chosen_N: torch.Tensor) -> Any:
    """The target's features [B, T, F], and what its laws give the tokens that the head scores [B, T, N]."""
    layers = head.settings.layers
    with entering(target, layers) as states:
        law_BTV = target(tokens_BT).logits.float().softmax(-1)
    return torch.cat([states[layer] for layer in layers], -1), law_BTV[..., chosen_N]


def unroll(head: Eagle3Head, tokens_BT: torch.Tensor, features_BTF: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the logits [B, C, N] at each depth of drafts that begin at all places of some texts at once.

    A draft is the text's own next tokens. It sees the text up to its place, read with the target's features, and
    behind it its own steps alone.
    """
    count = tokens_BT.shape[1] - DEPTHS
    sees_CL, itself_CC = torch.ones((count, count), dtype=torch.bool).tril(), torch.eye(count, dtype=torch.bool)
    state_BCE, cache = head.read(features_BTF[:, :count]), DynamicCache()
    for depth in range(1, DEPTHS + 1):
        logits_BCN, state_BCE = head.score(
            tokens_BT[:, depth : depth + count],
            state_BCE,
            torch.arange(depth, depth + count)[None],
            attention_mask=sees_CL[None, None],
            past_key_values=cache,
        )
        yield logits_BCN.float()
        sees_CL = torch.cat([sees_CL, itself_CC], -1)


def compare(target: LlamaForCausalLM, head: Eagle3Head, tokens_BT: torch.Tensor, chosen_N: torch.Tensor) -> Any:
    """By depth, the cross entropy in nats, and the overlap with the target's law, which is the chance of acceptance."""
    entropies, overlaps = [], []
    with torch.autocast("cpu", torch.bfloat16):
        features_BTF, law_BTN = ask(target, head, tokens_BT, chosen_N)
        for depth, logits_BCN in enumerate(unroll(head, tokens_BT, features_BTF), start=1):
            wanted_BCN = law_BTN[:, depth : depth + logits_BCN.shape[1]]
            log_draft_BCN = logits_BCN.log_softmax(-1)
            entropies.append(-(wanted_BCN * log_draft_BCN).sum(-1).mean())
            overlaps.append(torch.minimum(wanted_BCN, log_draft_BCN.exp()).sum(-1).mean())
    return torch.stack(entropies), torch.stack(overlaps)


def train(target: LlamaForCausalLM, head: Eagle3Head, tokens: torch.Tensor, chosen_N: torch.Tensor) -> None:
    """Run the schedule; the rate of learning decays to zero linearly."""
    started, weights = time.monotonic(), DECAY ** torch.arange(DEPTHS)
    learned = [parameter for parameter in head.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learned, betas=(0.9, 0.95), weight_decay=0.01)
    for step, tokens_BT in enumerate(batches(tokens, SCHEDULE, seed=5)):
        progress = step / SCHEDULE.steps
        optimiser.param_groups[0]["lr"] = SCHEDULE.learning_rate * min((step + 1) / 30, 1 - progress)
        entropies, overlaps = compare(target, head, tokens_BT, chosen_N)
        ((1 - progress) * entropies + progress * 4 * (1 - overlaps)).dot(weights / weights.sum()).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        if step % 20 == 0 or step == SCHEDULE.steps - 1:
            tell(f"step {step}, {time.monotonic() - started:.0f} s", entropies, overlaps)


@torch.no_grad()
def evaluate(target: LlamaForCausalLM, head: Eagle3Head, tokens: torch.Tensor, chosen_N: torch.Tensor) -> Any:
    """What ``compare`` gives on the first rows of a text."""
    return compare(target, head, tokens.unfold(0, CONTEXT + 1, CONTEXT)[:HELD_OUT_ROWS], chosen_N)


def tell(when: str, entropies: torch.Tensor, overlaps: torch.Tensor) -> None:
    """Print what ``compare`` gave."""
    figures = [" ".join(f"{one:.3f}" for one in values.tolist()) for values in (entropies, overlaps)]
    click.echo(f"{when}: loss {figures[0]}, accepted {figures[1]}", err=True)


def widened(weight_EF: torch.Tensor, parts: int, hidden: int) -> torch.Tensor:
    """The weight that reads features of another hidden size, whose first numbers are those of before."""
    parts_EPH = weight_EF.unflatten(1, (parts, -1))
    return F.pad(parts_EPH, (0, hidden - parts_EPH.shape[-1])).flatten(1)


def save(head: Eagle3Head, chosen_N: torch.Tensor, hidden: int, folder: Path) -> None:
    """Write a head of a target of this hidden size in the layout of ``speculators``."""
    settings, layer = head.settings, head.model.config.to_dict()
    layer.pop("eagle3")
    config = {
        "architectures": ["Eagle3DraftModel"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": settings.logits,
        "eagle_aux_hidden_state_layer_ids": list(settings.layers),
        "norm_before_residual": settings.norm_before_residual,
        "speculators_config": {"algorithm": "eagle3", "default_proposal_method": "greedy"},
        "transformer_layer_config": layer,
    }
    tensors = {name: tensor.detach().contiguous() for name, tensor in head.model.named_parameters()}
    tensors["fc.weight"] = widened(tensors["fc.weight"], len(settings.layers), hidden)
    tensors["d2t"] = chosen_N - torch.arange(len(chosen_N))
    tensors["t2d"] = torch.zeros(layer["vocab_size"], dtype=torch.bool).index_fill(0, chosen_N, True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, folder / "model.safetensors")


@click.command()
@click.argument("folder", metavar="TARGET", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--hidden", type=int, help="Hidden size of the padded target.  [default: that of TARGET]")
def main(folder: Path, output: Path, hidden: int | None) -> None:
    """Train a head for the Llama in TARGET, and write it to OUTPUT."""
    disable_progress_bar()
    target = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if not isinstance(target, LlamaForCausalLM):
        raise click.ClickException(f"{folder} holds a {type(target).__name__}; this script trains heads of Llamas.")
    size = target.config.hidden_size
    if hidden is not None and hidden < size:
        raise click.ClickException(f"--hidden is {hidden}; it must be at least the target's, {size}.")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    learned, held_out = (encode(tokenizer, read(paths)) for paths in corpus_files(Path(sysconfig.get_path("stdlib"))))
    chosen_N = frequent(learned, target.config.vocab_size)
    head = make_head(target, chosen_N)
    train(target, head, learned, chosen_N)
    tell("on held-out text", *evaluate(target, head, held_out, chosen_N))
    save(head, chosen_N, hidden or size, output)
    count = sum(parameter.numel() for parameter in head.parameters())
    click.echo(f"{output}: a head of {count / 1e6:.1f} M parameters that scores {len(chosen_N)} tokens")


if __name__ == "__main__":
    main()
