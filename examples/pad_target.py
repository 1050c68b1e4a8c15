"""Pad a small Llama with zeros until it costs what a real model costs, and computes the same law.

    python examples/pad_target.py examples/demo_pair/target build/demo/target

Hidden state, MLP and heads become wider, and layers may be added; all that is new is zero, so it adds nothing to any
logit. The engines multiply zeros like other numbers, so a call costs what a call of a model of that size costs. Such a
model shows what speculation gains where a target is costly. It says nothing about quality: the text is the small
model's.

A norm divides by the root of the mean of squares, and a mean over R times as many numbers, all new ones zero, is R
times smaller. So its weights are divided by the root of R and its epsilon by R. For R = 4, 16, ... that is exact in
every floating-point type. The script compares the logits of both models on its own text, and writes nothing if they
differ by more than rounding.
"""

# H hidden size, T tokens, V vocabulary.
from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any, cast

import click
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

TOLERANCE = 1e-3
CHECKED = 256  # tokens


def widened(config: LlamaConfig, hidden: int, mlp: int, heads: int, layers: int) -> LlamaConfig:
    """The configuration of the padded model; heads share keys and values in groups as large as before."""
    group = config.num_attention_heads // config.num_key_value_heads
    sizes = {"hidden_size": hidden, "intermediate_size": mlp, "num_attention_heads": heads, "num_hidden_layers": layers}
    for name, size in sizes.items():
        if size < getattr(config, name):
            raise click.ClickException(f"{name} is {size}; it must be at least the source's, {getattr(config, name)}.")
    if heads % group:
        raise click.ClickException(
            f"{heads} heads: the source has groups of {group}, so it must be a multiple of that."
        )
    wider = copy.deepcopy(config)
    for name, size in (sizes | {"num_key_value_heads": heads // group, "head_dim": config.head_dim}).items():
        setattr(wider, name, size)
    wider.rms_norm_eps = config.rms_norm_eps * config.hidden_size / hidden
    return wider


def norm_factor(config: LlamaConfig, wider: LlamaConfig) -> float:
    """What the weights of a norm are multiplied with."""
    return math.sqrt(config.hidden_size / wider.hidden_size)


@torch.inference_mode()
def pad(source: LlamaForCausalLM, wider: LlamaConfig) -> LlamaForCausalLM:
    """The padded model, in the source's type: every weight holds the source's in its first rows and columns."""
    model: Any = AutoModelForCausalLM.from_config(wider, dtype=source.dtype).eval()
    factor = norm_factor(source.config, wider)
    given = dict(source.named_parameters())
    for name, parameter in model.named_parameters():
        parameter.zero_()
        if name in given:
            scale = factor if "norm" in name else 1.0
            parameter[tuple(map(slice, given[name].shape))] = given[name] * scale
    return cast(LlamaForCausalLM, model)


@torch.inference_mode()
def difference(source: LlamaForCausalLM, model: LlamaForCausalLM, ids: list[int]) -> float:
    """The largest difference between logits of both models on a text, computed in float32."""
    ids_1T = torch.tensor([ids])
    logits_1TV, padded_1TV = (copy.deepcopy(one).float()(input_ids=ids_1T).logits for one in (source, model))
    return float((logits_1TV - padded_1TV).abs().max())


def open_source(folder: Path) -> tuple[LlamaForCausalLM, Any]:
    """The source and its tokenizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    if not isinstance(model, LlamaForCausalLM):
        raise click.ClickException(f"{folder} holds a {type(model).__name__}; only a LlamaForCausalLM can be padded.")
    return model, AutoTokenizer.from_pretrained(folder)


@click.command()
@click.argument("folder", metavar="SOURCE", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--hidden", default=1024, show_default=True, help="Hidden size; 4 or 16 times the source's is exact.")
@click.option("--mlp", default=2944, show_default=True, help="Size of the MLP.")
@click.option("--heads", default=32, show_default=True, help="Attention heads.")
@click.option("--layers", type=int, help="Layers.  [default: as many as the source has]")
def main(folder: Path, output: Path, hidden: int, mlp: int, heads: int, layers: int | None) -> None:
    """Pad the Llama in SOURCE, and write it to OUTPUT if it computes the same logits."""
    disable_progress_bar()
    source, tokenizer = open_source(folder)
    wider = widened(source.config, hidden, mlp, heads, layers or source.config.num_hidden_layers)
    model = pad(source, wider)
    length = min(CHECKED, wider.max_position_embeddings)
    ids = tokenizer(Path(__file__).read_text(encoding="utf-8"), truncation=True, max_length=length)["input_ids"]
    largest = difference(source, model, ids)
    if not largest <= TOLERANCE:
        raise click.ClickException(
            f"The logits of the padded model differ by {largest:.2g} from the source's; {TOLERANCE} is allowed for "
            "rounding. Nothing was written. Take 4 or 16 times the source's hidden size, whose norms are exact."
        )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    counts = [sum(one.numel() for one in each.parameters()) / 1e6 for each in (source, model)]
    click.echo(
        f"{output}: {counts[0]:.1f} M parameters padded with zeros to {counts[1]:.1f} M: the same law (logits within "
        f"{largest:.1g}), at the cost of a model of that size"
    )


if __name__ == "__main__":
    main()
