"""Reading prompts into the cache."""

# B rows, T tokens of a chunk.
from __future__ import annotations

from collections.abc import Sequence

import torch

from spectr_runtime.attention import aligned, block_mask, triangle
from spectr_runtime.engine import Call, Engine


def prefill(engine: Engine, prompts: Sequence[Sequence[int]], first_row: int, chunk: int, device: torch.device) -> None:
    """Write keys and values of all but the last token of every prompt, in chunks.

    The last token is the root of the row's first round. Rows shorter than the longest write padding behind their text,
    where nothing looks until it is overwritten.

    Args:
        engine: The model.
        prompts: Token ids of the rows ``first_row ..``.
        first_row: First cache row.
        chunk: Most tokens that one call feeds to a row.
        device: Where the engine takes its inputs.
    """
    longest = max(map(len, prompts)) - 1
    padded_BT = torch.tensor([[*prompt, *[0] * (longest + 1 - len(prompt))] for prompt in prompts], device=device)
    for start in range(0, longest, chunk):
        stop = min(start + chunk, longest)
        start_B = torch.full((len(prompts),), start, device=device)
        position_T = torch.arange(start, stop, device=device)
        engine.forward(
            Call(
                input_ids_BT=padded_BT[:, start:stop].contiguous(),
                position_ids_BT=position_T.expand(len(prompts), -1).contiguous(),
                attention_mask_B1TL=block_mask(start_B, triangle(stop - start, device), aligned(stop)),
                write_index_B=start_B,
                logit_index_BM=torch.zeros((len(prompts), 1), dtype=torch.int64, device=device),
                first_row=first_row,
            )
        )
