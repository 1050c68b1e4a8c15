"""Tiny heads of EAGLE-3 with random weights, in both layouts in which heads are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_models import POSITIONS, VOCABULARY, save_checkpoint, tiny_model
from transformers import AutoConfig

from spectr_runtime import ModelSpec
from spectr_runtime.adapter.eagle3 import Settings
from spectr_runtime.bundle import Head

LOGITS = 200
LAYERS = (1, 2, 4)  # of a target of four, whose number stands for what leaves the last
SIZE, INNER, HEADS, KEYS, WIDTH = 32, 40, 4, 2, 8


def target_checkpoint(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """A target of four layers."""
    sizes = {"num_hidden_layers": 4, **changes}
    return save_checkpoint(folder, tiny_model(family, seed=1, **sizes))


def layer_settings(family: str = "llama", vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """The configuration of a head's layer."""
    return {
        "model_type": family,
        "vocab_size": vocabulary,
        "hidden_size": SIZE,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": WIDTH,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
    }


def speculators_settings(family: str = "llama", **changes: Any) -> dict[str, Any]:
    """The config.json of a head in the layout of speculators."""
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "transformer_layer_config": layer_settings(family),
        "draft_vocab_size": LOGITS,
        "norm_before_residual": True,
        "eagle_aux_hidden_state_layer_ids": list(LAYERS),
        "speculators_config": {"algorithm": "eagle3", "proposal_methods": [], "verifier": {"name_or_path": None}},
        **changes,
    }


def original_settings(**changes: Any) -> dict[str, Any]:
    """The config.json of a head in the original layout."""
    own = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": LOGITS}
    return {**layer_settings(), **own, "eagle_config": {"eagle_aux_hidden_state_layer_ids": list(LAYERS)}, **changes}


def head_tensors(family: str = "llama", logits: int = LOGITS, vocabulary: int = VOCABULARY) -> dict[str, torch.Tensor]:
    """The tensors of a head that scores every token but some at the beginning, under the names of speculators."""
    shapes = {
        "fc.weight": (SIZE, len(LAYERS) * SIZE),
        "layers.0.hidden_norm.weight": (SIZE,),
        "layers.0.input_layernorm.weight": (SIZE,),
        "layers.0.post_attention_layernorm.weight": (SIZE,),
        "layers.0.self_attn.q_proj.weight": (HEADS * WIDTH, 2 * SIZE),
        "layers.0.self_attn.k_proj.weight": (KEYS * WIDTH, 2 * SIZE),
        "layers.0.self_attn.v_proj.weight": (KEYS * WIDTH, 2 * SIZE),
        "layers.0.self_attn.o_proj.weight": (SIZE, HEADS * WIDTH),
        "layers.0.mlp.gate_proj.weight": (INNER, SIZE),
        "layers.0.mlp.up_proj.weight": (INNER, SIZE),
        "layers.0.mlp.down_proj.weight": (SIZE, INNER),
        "norm.weight": (SIZE,),
        "lm_head.weight": (logits, SIZE),
    }
    if family == "qwen3":
        shapes |= {f"layers.0.self_attn.{name}_norm.weight": (WIDTH,) for name in "qk"}
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: torch.empty(shape).normal_(float(len(shape) == 1), 0.25, generator=generator)
        for name, shape in shapes.items()
    }
    tokens_N = torch.arange(logits) + vocabulary - logits
    scored_V = torch.zeros(vocabulary, dtype=torch.bool)
    scored_V[tokens_N] = True
    return {**tensors, "d2t": tokens_N - torch.arange(logits), "t2d": scored_V}


def save_head(
    folder: Path, settings: dict[str, Any], tensors: dict[str, torch.Tensor], *, pickled: bool = False
) -> Path:
    """Write the checkpoint of a head."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    if pickled:
        torch.save(tensors, folder / "pytorch_model.bin")
    else:
        save_file(tensors, folder / "model.safetensors")
    return folder


def original_names(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names of the original layout."""
    return {name.replace("layers.0.", "midlayer."): tensor for name, tensor in tensors.items()}


def bundled_head(folder: Path, family: str = "llama") -> ModelSpec:
    """Write a head with embeddings of its own as a bundle has it, without a graph, and return its sizes."""
    folder.mkdir()
    config = AutoConfig.for_model(**layer_settings(family))
    Settings(LOGITS, LAYERS, len(LAYERS) * SIZE).to_config(config)
    config.save_pretrained(folder)
    tensors = {name: tensor for name, tensor in head_tensors(family).items() if name not in ("d2t", "t2d")}
    embeddings = torch.randn((VOCABULARY, SIZE), generator=torch.Generator().manual_seed(4))
    save_file({**tensors, "embed_tokens.weight": embeddings}, folder / "model.safetensors")
    head = Head("eagle3", len(LAYERS) * SIZE, SIZE)
    return ModelSpec(family, 1, KEYS, WIDTH, LOGITS, POSITIONS, head=head)
