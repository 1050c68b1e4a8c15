"""What is asked of every architecture: parity with transformers, and greedy texts equal to those of its ``generate``."""

# B rows, M wanted columns, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tiny_models import SIZES

from spectr_runtime import Call
from spectr_runtime.attention import aligned, block_mask, triangle
from spectr_runtime.engine import Engine
from spectr_runtime.prefill import prefill

ARCHITECTURES = tuple(SIZES)
CPU = torch.device("cpu")
CHUNK = 16


def greedy(engine: Engine, prompt: Sequence[int], count: int) -> list[int]:
    """The most likely continuation, token by token, through the cache of row 0."""
    prefill(engine, [prompt], 0, CHUNK, CPU)
    tokens = list(prompt)
    for _ in range(count):
        slot_B = torch.tensor([len(tokens) - 1])
        call = Call(
            input_ids_BT=torch.tensor([tokens[-1:]]),
            position_ids_BT=slot_B[:, None],
            attention_mask_B1TL=block_mask(slot_B, triangle(1, CPU), aligned(len(tokens))),
            write_index_B=slot_B,
            logit_index_BM=torch.zeros((1, 1), dtype=torch.int64),
        )
        tokens.append(int(engine.forward(call)[0, 0].argmax()))
    return tokens[len(prompt) :]


def generated(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The same continuation as transformers' own ``generate`` has it, with end tokens written like any other."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    continuation: list[int] = output[0, len(prompt) :].tolist()
    return continuation
