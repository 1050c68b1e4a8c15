"""Write the GGUF file of a Llama: its weights by llama.cpp's names, and no vocabulary but its size.

The prompts of the benchmark are token ids, so nothing needs a tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from safetensors import safe_open

TYPES = {
    "fp32": gguf.GGMLQuantizationType.F32,
    "int8": gguf.GGMLQuantizationType.Q8_0,
    "int4": gguf.GGMLQuantizationType.Q4_0,
}


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of a projection to queries or keys in llama.cpp's order, which rotates neighbours."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(source: Path, path: Path, precision: str) -> None:
    """Write the file if it is not there."""
    if path.exists():
        return
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama":
        raise ValueError(f"only a llama is written as GGUF here, not {config['model_type']}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    write_sizes(writer, config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    with safe_open(source / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            weight = file.get_tensor(name).astype(np.float32)
            for kind, count in heads.items():
                if f"{kind}.weight" in name:
                    weight = interleaved(weight, count)
            own = names.get_name(name, try_suffixes=(".weight",))
            stored = TYPES[precision] if weight.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(own, gguf.quants.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(path)


def write_sizes(writer: gguf.GGUFWriter, config: dict[str, object]) -> None:
    """Write the sizes of the model."""
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
