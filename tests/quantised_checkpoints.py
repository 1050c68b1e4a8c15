"""Quantised checkpoints, packed here from codes, scales and zero points by the published layouts of their formats."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tiny_models import END, byte_tokenizer, tiny_model
from tokenizers import pre_tokenizers
from torch import nn

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
GROUP = 32
GGUF_TOKENS = 258  # of the tokenizer in a GGUF file: all bytes, a pair and the end token
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output in each place of a word


@dataclasses.dataclass(frozen=True)
class Rounded:
    """A matrix in unsigned codes [N, K], with scales and zero points [N, G] and the block of each input [K]."""

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    index: torch.Tensor

    @property
    def weight(self) -> torch.Tensor:
        """The numbers that the codes stand for, [N, K]."""
        return self.scales[:, self.index] * (self.codes - self.zeros[:, self.index])


def rounded(weight: torch.Tensor, bits: int, *, symmetric: bool, scattered: bool = False) -> Rounded:
    """Round a matrix [N, K] in blocks of 32 inputs, or of 32 inputs that are spread over all."""
    (outputs, inputs), top = weight.shape, 2**bits - 1
    order = torch.arange(inputs)
    if scattered:
        order = torch.randperm(inputs, generator=torch.Generator().manual_seed(inputs))
    index = torch.empty(inputs, dtype=torch.int64)
    index[order] = torch.arange(inputs) // GROUP
    blocks = weight[:, order].view(outputs, -1, GROUP)
    low, high = blocks.amin(2), blocks.amax(2)
    if symmetric:
        high = blocks.abs().amax(2)
        scales, zeros = 2 * high / top, torch.full_like(high, 2 ** (bits - 1))
    else:
        scales = (high.clamp(min=0) - low.clamp(max=0)) / top
        zeros = (-low.clamp(max=0) / scales).round()
    scales = scales.half().float()
    codes = (weight / scales[:, index] + zeros[:, index]).round().clamp(0, top)
    return Rounded(codes.int(), scales, zeros.int(), index)


def words(codes: np.ndarray, bits: int) -> torch.Tensor:
    """Pack the codes of each row into words of 32 bits, from the lowest bits up."""
    per = 32 // bits
    packed = np.zeros((len(codes), codes.shape[1] // per), dtype=np.uint64)
    for place in range(per):
        packed |= codes[:, place::per].astype(np.uint64) << np.uint64(place * bits)
    return torch.from_numpy(packed.astype(np.uint32).view(np.int32))


def gptq(path: str, matrix: Rounded, bits: int, *, less: int = 1) -> dict[str, torch.Tensor]:
    """The tensors of a layer in GPTQ's layout."""
    return {
        f"{path}.qweight": words(matrix.codes.numpy(), bits).T.contiguous(),
        f"{path}.qzeros": words((matrix.zeros - less).T.numpy(), bits),
        f"{path}.scales": matrix.scales.T.half().contiguous(),
        f"{path}.g_idx": matrix.index.int(),
    }


def awq(path: str, matrix: Rounded) -> dict[str, torch.Tensor]:
    """The tensors of a layer in AWQ's layout."""

    def pack(values: torch.Tensor) -> torch.Tensor:
        return words(values.T.numpy().reshape(values.shape[1], -1, 8)[..., AWQ_ORDER].reshape(values.shape[1], -1), 4)

    return {
        f"{path}.qweight": pack(matrix.codes),
        f"{path}.qzeros": pack(matrix.zeros),
        f"{path}.scales": matrix.scales.T.half().contiguous(),
    }


def save_quantised(
    folder: Path,
    settings: Mapping[str, Any],
    quantise: Callable[[str, torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]],
    **changes: Any,
) -> Any:
    """Write a llama whose layers are quantised, and return the model with the numbers that its codes stand for.

    Args:
        folder: The folder to write.
        settings: The ``quantization_config``.
        quantise: Takes the path of a layer and its matrix; returns its tensors, and the numbers that they stand for.
        changes: Changes of the configuration.
    """
    model = tiny_model("llama", **SIZES, **changes)
    tensors = dict(model.state_dict())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name != "lm_head":
                made, numbers = quantise(name, module.weight.detach())
                del tensors[f"{name}.weight"]
                tensors |= made
                module.weight.copy_(numbers)
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": dict(settings)}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    byte_tokenizer().save_pretrained(folder)
    return model


def save_gguf(
    path: Path,
    model: Any,
    kinds: Callable[[str], str],
    metadata: Mapping[str, Any] = {},
    extra: Mapping[str, np.ndarray] = {},
    rule: str = "gpt-2",
) -> None:
    """Write a llama as llama.cpp's converter does, with tensors of each kind in random blocks where nobody packs them.

    Args:
        path: The file.
        model: A llama.
        kinds: Returns the type of a tensor by its name in the file.
        metadata: More keys, without the architecture in front.
        extra: More tensors in float32.
        rule: What the file calls the rule by which texts are cut.
    """
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    for key, value in metadata.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}[type(value)]
        add(key, value)
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", END]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([*[1] * (len(tokens) - 1), 3])
    writer.add_token_merges(["Ġ t"])
    writer.add_eos_token_id(len(tokens) - 1)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        own = names.get_name(name.removesuffix(".weight")) + ".weight"
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        data = tensor.numpy()
        for part, count in heads.items():
            if part in own:  # llama.cpp turns neighbours, transformers the halves of a head
                data = data.reshape(count, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        kind = "F32" if data.ndim == 1 else kinds(own)
        if kind in ("F32", "F16"):
            writer.add_tensor(own, data.astype({"F32": np.float32, "F16": np.float16}[kind]))
        else:
            writer.add_tensor(own, blocks_of(data, kind), raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, data in extra.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def blocks_of(data: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of a matrix in a type of ggml: packed by ggml's package, or random where it packs none."""
    import gguf

    number = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quants.quantize(data.astype(np.float32), number)
    except NotImplementedError:
        return random_blocks(kind, len(data), data.shape[1])


def random_blocks(kind: str, outputs: int, inputs: int) -> np.ndarray:
    """Random bytes of a type, with scales that are small numbers."""
    import gguf

    per, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    generator = np.random.default_rng(size + outputs)
    blocks = generator.integers(0, 256, (outputs, inputs // per, size), dtype=np.uint8)
    halves = {"Q6_K": [208], "Q4_0": [0], "Q5_0": [0], "Q8_0": [0]}.get(kind, [0, 2])
    scale = 5e-5 if kind.endswith("_K") else 2e-3  # others than the scales of K-quants have no factors
    for start in halves:
        numbers = generator.normal(scale=scale, size=(outputs, inputs // per, 1)).astype(np.float16)
        blocks[..., start : start + 2] = numbers.view(np.uint8)
    return blocks.reshape(outputs, -1)
