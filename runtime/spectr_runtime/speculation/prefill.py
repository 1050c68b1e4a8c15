"""Reading texts into the cache: prompts, and what was written while the draft stood still."""

# B rows, T tokens that are missing, C tokens of a chunk.
from __future__ import annotations

from collections.abc import Sequence

import torch

from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle


def prefill(
    engine: Engine,
    texts: Sequence[Sequence[int]],
    cached: Sequence[int],
    first_row: int,
    chunk: int,
    device: torch.device,
) -> None:
    """Write keys and values of all but the last token of every text, in chunks.

    The last token is the root of the row's next round. Every row is fed as many tokens as the one that lacks most: some
    that it has already, or padding behind a shorter text, where nothing looks until it is overwritten.

    Args:
        engine: The model.
        texts: Token ids of the rows ``first_row ..``.
        cached: Tokens of each that the cache holds from its start.
        first_row: First cache row.
        chunk: Most tokens that one call feeds to a row.
        device: Where the engine takes its inputs.
    """
    missing = max(len(text) - 1 - held for text, held in zip(texts, cached, strict=True))
    starts = [max(len(text) - 1 - missing, 0) for text in texts]
    fed = [list(text[start : start + missing]) for text, start in zip(texts, starts, strict=True)]
    tokens_BT = torch.tensor([[*tokens, *[0] * (missing - len(tokens))] for tokens in fed], device=device)
    start_B = torch.tensor(starts, device=device)
    for begin in range(0, missing, chunk):
        tokens_BC = tokens_BT[:, begin : begin + chunk].contiguous()
        size = tokens_BC.shape[1]
        write_B = start_B + begin
        engine.forward(
            Call(
                input_ids_BT=tokens_BC,
                position_ids_BT=write_B[:, None] + torch.arange(size, device=device),
                attention_mask_B1TL=block_mask(write_B, triangle(size, device), aligned(max(starts) + begin + size)),
                write_index_B=write_B,
                logit_index_BM=torch.zeros((len(texts), 1), dtype=torch.int64, device=device),
                first_row=first_row,
            )
        )
