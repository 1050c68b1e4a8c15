"""What ways to round a model's matrices to int4 and int8 lose, on texts that none of them has seen.

All leave embeddings and output layer as they are. Those to int4 have blocks of 32 inputs; those to int8 have codes of 7
bits and one scale for each output, and round the rows of the inputs to 8 bits. The loss is the Kullback-Leibler
divergence of the model's laws to those of the original: what the model loses, in nats per token, on text that the
original itself writes. The difference in the cross entropy of a given text has the same mean over texts of the
original, and on a few thousand tokens of another text more noise than some ways lose at all.
"""

# N outputs of a layer, K inputs, T tokens, V vocabulary, B weights of a block.
from __future__ import annotations

import contextlib
import functools
import heapq
import inspect
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, HQQWeightOnlyQuantizer
from onnxruntime.quantization.neural_compressor.weight_only import quant_tensor_k_quant_cpu
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_export.storing.activations import channel_scales, measure_inputs
from spectr_export.storing.compensation import measure_feedback, quantise_compensated
from spectr_export.storing.levels import BLOCK, Chooser, asymmetric, symmetric
from spectr_export.storing.quantiser import quantisable, quantise
from spectr_export.text import TOKENS as MEASURED
from spectr_export.text import WINDOW, Texts, windows
from spectr_runtime.bundle.rows import LARGEST_CODE, LEVELS, round_rows
from spectr_runtime.bundle.weights import dequantise

PROMPTS = Path(__file__).parent.parent / "examples" / "prompts.jsonl"
TOKENS = 2048
# Rounds a matrix [N, K] by its weights alone.
Round = Callable[[torch.Tensor], torch.Tensor]


def nearest(matrix_NK: torch.Tensor) -> torch.Tensor:
    """Rounding to nearest, symmetric: the largest weight of a block at code 7."""
    blocks_NGB = matrix_NK.unflatten(1, (-1, BLOCK))
    scales = blocks_NGB.abs().amax(-1, keepdim=True) / 7
    return ((blocks_NGB / scales.where(scales > 0, 1)).round() * scales).flatten(1)


def nearest_with_zero_point(matrix_NK: torch.Tensor) -> torch.Tensor:
    """Rounding to nearest with an integer zero point, as ONNX Runtime's default does."""
    blocks_NGB = matrix_NK.unflatten(1, (-1, BLOCK))
    least, most = blocks_NGB.amin(-1, keepdim=True).clamp(max=0), blocks_NGB.amax(-1, keepdim=True).clamp(min=0)
    scales = (most - least).where(most > least, 15) / 15
    zeros = (-least / scales).round()
    return (((blocks_NGB / scales).round() + zeros).clamp(0, 15) - zeros).mul(scales).flatten(1)


def clipped(matrix_NK: torch.Tensor) -> torch.Tensor:
    """What spectr stores where inputs are not known: symmetric, clipped where the squared error is least."""
    return dequantise(*quantise(matrix_NK, "int4", torch.float32).values())


def k_quant(matrix_NK: torch.Tensor) -> torch.Tensor:
    """ONNX Runtime's k-quant, with an integer zero point."""
    codes, scales, zeros = quant_tensor_k_quant_cpu(matrix_NK.numpy(), 4, BLOCK)
    return torch.tensor((codes - zeros) * scales, dtype=torch.float32).view_as(matrix_NK)


def hqq(matrix_NK: torch.Tensor) -> torch.Tensor:
    """ONNX Runtime's HQQ, with a floating-point zero point."""
    library = HQQWeightOnlyQuantizer(HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=4))
    codes, scales, zeros = library.quantize_internal(matrix_NK, bits=4, group_size=BLOCK, axis=1)
    blocks = codes.reshape(-1, BLOCK).float() - zeros.reshape(-1, 1)
    return (blocks * scales.reshape(-1, 1)).float().view_as(matrix_NK)


def seven_bits(matrix_NK: torch.Tensor) -> torch.Tensor:
    """The weights of int8, where rows are rounded too."""
    return dequantise(*quantise(matrix_NK, "int8", torch.float32, largest=LARGEST_CODE).values())


ALONE: Mapping[str, Round] = {
    "nearest, symmetric": nearest,
    "nearest, integer zero point": nearest_with_zero_point,
    "clipped, symmetric": clipped,
    "k-quant, integer zero point": k_quant,
    "HQQ, floating-point zero point": hqq,
}
READING: Mapping[str, Chooser] = {"GPTQ, symmetric": symmetric, "GPTQ, floating-point minimum": asymmetric}


def round_reading(model: Any, names: Sequence[str], ids: Sequence[int], choose: Chooser) -> None:
    """Round a model in memory as ``storing/reading.py`` does, in either form."""

    def round_layer(layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        feedback_KK = measure_feedback(inputs[0].flatten(0, 1))
        assert feedback_KK is not None
        codes_KN, *levels = quantise_compensated(layer.weight, feedback_KK, choose, torch.float32)
        scales_KN, minima_KN = (part.repeat_interleave(BLOCK, 0) for part in levels)
        layer.weight.data = (codes_KN * scales_KN + minima_KN).T.contiguous()

    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(model.get_submodule(name).register_forward_pre_hook(round_layer))
        model.base_model(input_ids=torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW))


def round_rows_too(model: Any, names: Sequence[str], ids: Sequence[int], *, divide: bool) -> contextlib.ExitStack:
    """Round a model in memory to int8 as a build does, and the rows of its inputs until what is returned is closed."""
    weights = [f"{name}.weight" for name in names]
    largest = measure_inputs(model, weights, ids[:MEASURED]) if divide else {}
    hooks = contextlib.ExitStack()
    for name in names:
        layer = model.get_submodule(name)
        scale_K = torch.ones(layer.in_features)
        if divide:
            scale_K = channel_scales(largest[f"{name}.weight"], torch.float32)
        made = quantise(layer.weight.data * scale_K, "int8", torch.float32, largest=LARGEST_CODE)
        layer.weight.data = dequantise(*made.values())
        hooks.enter_context(
            layer.register_forward_pre_hook(
                lambda _layer, inputs, scale_K=scale_K: (round_rows(inputs[0] / scale_K, LEVELS),)
            )
        )
    return hooks


@torch.no_grad()
def measure_losses(checkpoint: Path) -> dict[str, object]:
    """What each way loses on a checkpoint whose layers are ``nn.Linear``."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    ids = Texts.of(None, tokenizer, model.config.vocab_size).read
    records = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    prompts = "\n\n".join(str(record.get("body", record)["prompt"]) for record in records)
    texts = {"heapq": inspect.getsource(heapq), "prompts": prompts}
    tokens = {name: tokenizer(text)["input_ids"][:TOKENS] for name, text in texts.items()}
    expected = {name: laws(model, read) for name, read in tokens.items()}
    names = sorted(name.removesuffix(".weight") for name in quantisable(model, "int4"))
    layers = {name: model.get_submodule(name) for name in names}
    own = {name: layer.weight.data.clone() for name, layer in layers.items()}
    int8 = functools.partial(round_rows_too, model, names, ids)
    ways: dict[str, Callable[[], object]] = {
        **{way: functools.partial(_round_alone, layers, function) for way, function in ALONE.items()},
        **{way: functools.partial(round_reading, model, names, ids, choose) for way, choose in READING.items()},
        "int8, weights alone": functools.partial(_round_alone, layers, seven_bits),
        "int8, rows too": functools.partial(int8, divide=False),
        "int8, rows divided before": functools.partial(int8, divide=True),
    }
    found = {}
    for way, apply in ways.items():
        started = time.perf_counter()
        applied = apply()
        seconds = round(time.perf_counter() - started, 1)
        found[way] = {"seconds": seconds} | {text: compare(model, tokens[text], expected[text]) for text in texts}
        if isinstance(applied, contextlib.ExitStack):
            applied.close()
        for name, layer in layers.items():
            layer.weight.data = own[name].clone()
    parameters = sum(weight.numel() for weight in model.parameters())
    return {"parameters": parameters, "tokens": TOKENS, "tokens_read": len(ids), "ways": found}


def _round_alone(layers: Mapping[str, nn.Module], function: Round) -> None:
    for layer in layers.values():
        layer.weight.data = function(layer.weight.data)


def laws(model: Any, ids: Sequence[int]) -> list[torch.Tensor]:
    """Log-probabilities [T, V] behind every token, window by window."""
    return [model(input_ids=torch.tensor([window])).logits[0].log_softmax(-1) for window in windows(ids)]


def compare(model: Any, ids: Sequence[int], expected: Sequence[torch.Tensor]) -> dict[str, float]:
    """Divergence and difference of the cross entropy in nats per token, and the acceptance of the model as draft."""
    sums = dict.fromkeys(("divergence", "lost", "acceptance"), 0.0)
    for window, original_TV, found_TV in zip(windows(ids), expected, laws(model, ids), strict=True):
        told_T1 = torch.tensor(window)[1:, None]
        sums["divergence"] += float((original_TV.exp() * (original_TV - found_TV)).sum())
        sums["lost"] += float((original_TV - found_TV)[:-1].gather(1, told_T1).sum()) * len(window) / len(told_T1)
        sums["acceptance"] += float(torch.minimum(original_TV.exp(), found_TV.exp()).sum())
    return {name: round(total / len(ids), 5) for name, total in sums.items()}
