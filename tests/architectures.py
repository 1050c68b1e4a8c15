"""What is asked of every architecture."""

# B rows, T tokens fed, L attention length, M wanted columns.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_models import SIZES

from spectr_export.storing.activations import measure_inputs
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_runtime import Call
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle

ARCHITECTURES = tuple(SIZES)
MIXTURES = {"qwen3_moe", "mixtral", "gpt_oss"}
PROMPT = tuple((7 * n * n + 3) % 256 for n in range(40))
CPU = torch.device("cpu")
CHUNK = 16


def greedy(engine: Engine, prompt: Sequence[int], count: int) -> list[int]:
    """The most likely continuation: the prompt in chunks, then token by token."""
    for start in range(0, len(prompt), CHUNK):
        token = _read(engine, prompt[start : start + CHUNK], start)
    tokens = [token]
    while len(tokens) < count:
        tokens.append(_read(engine, tokens[-1:], len(prompt) + len(tokens) - 1))
    return tokens


def _read(engine: Engine, tokens: Sequence[int], start: int) -> int:
    """Feed tokens to row 0 behind its first ``start``; the most likely next one."""
    start_B = torch.tensor([start])
    call = Call(
        input_ids_BT=torch.tensor([tokens]),
        position_ids_BT=start_B[:, None] + torch.arange(len(tokens)),
        attention_mask_B1TL=block_mask(start_B, triangle(len(tokens), CPU), aligned(start + len(tokens))),
        write_index_B=start_B,
        logit_index_BM=torch.tensor([[len(tokens) - 1]]),
    )
    return int(engine.forward(call)[0, 0].argmax())


def generated(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The same continuation as transformers' own ``generate`` has it, with end tokens written like any other."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    continuation: list[int] = output[0, len(prompt) :].tolist()
    return continuation


def largest_inputs(model: Any, precision: Precision) -> dict[str, torch.Tensor]:
    """What ``save_model`` has to know for fp8 and int8, from the prompt; nothing for other precisions."""
    plan = StoragePlan.of(model, precision)
    return measure_inputs(model, plan.matrices if precision.quantisation == "fp8" else plan.divided, PROMPT)
