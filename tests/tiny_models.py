"""Tiny models of transformers with random weights, and a byte-level tokenizer: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from spectr_runtime import ModelSpec

END = "<|end|>"
VOCABULARY = 257  # all bytes and the end token
POSITIONS = 128
WINDOW = 24  # shorter than the texts that the architectures are tested with
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS // 4, "rope_theta": 1e4}
# What each architecture needs beside the sizes of ``tiny_config``.
SIZES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {"head_dim": 8, "sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": {},
    "phi3": {"sliding_window": WINDOW},
    "gpt2": {},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 32},
    "gpt_neox": {},
    "stablelm": {},
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "smollm3": {"no_rope_layers": [1, 0]},
    "falcon": {},
    "bloom": {},
    "qwen3_moe": {"head_dim": 8, "moe_intermediate_size": 24, "num_experts": 6, "num_experts_per_tok": 2},
    "mixtral": {"num_local_experts": 4},
    "gpt_oss": {
        "head_dim": 8,
        "sliding_window": WINDOW,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "rope_parameters": YARN,
    },
}


class Exported(NamedTuple):
    """A model folder with its graph, the model that it was made of and its sizes."""

    folder: Path
    model: Any
    spec: ModelSpec


def tiny_config(family: str, **changes: Any) -> Any:
    """A configuration of two layers, two key/value heads where the family groups them, and 128 positions."""
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": None,
        "eos_token_id": VOCABULARY - 1,
        "pad_token_id": None,
    }
    return AutoConfig.for_model(family, **{**sizes, **SIZES.get(family, {}), **changes})


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A causal LM whose weights spread its logits over several units."""
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            centre = 1.0 if parameter.dim() == 1 else 0.0
            parameter.normal_(centre, 0.25, generator=generator)
    return model


def byte_tokenizer(letters: Sequence[str] | None = None) -> PreTrainedTokenizerFast:
    """One token per byte, in the order of its letters, then the end token."""
    letters = letters or sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, model_max_length=POSITIONS)


def save_checkpoint(folder: Path, model: Any) -> Path:
    """Write a model and the byte tokenizer as transformers does."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def save_pair(folder: Path, family: str = "llama") -> tuple[Path, Path]:
    """A target with padded logits and its draft of one layer, in half precision as most checkpoints are."""
    target = tiny_model(family, seed=1, vocab_size=VOCABULARY + 7).half()
    draft = tiny_model(family, seed=2, num_hidden_layers=1).half()
    return save_checkpoint(folder / "target", target), save_checkpoint(folder / "draft", draft)
