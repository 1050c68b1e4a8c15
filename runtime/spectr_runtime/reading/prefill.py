"""Reading texts into a cache: prompts, and what the target wrote in rounds that did not use the draft.

A prompt whose tokens are to be scored is read in the same way, with the logits of every token.
"""

# B rows, T tokens fed to a row in all, C tokens of a chunk, V vocabulary, W width of hidden states.
from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from spectr_runtime.contract import Call, Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.drafting.head import DraftHead


def prefill(
    engine: Engine,
    texts: Sequence[Sequence[int]],
    cached: Sequence[int],
    first_row: int,
    chunk: int,
    device: torch.device,
    head: DraftHead | None = None,
    slots: int | None = None,
) -> int:
    """Write the keys and values of all but the last token of every text in chunks, and return the number of calls.

    The last token is the root of the row's next round, which feeds it. A call feeds the same number of tokens to every
    row, so each is fed as many as the row that lacks most. A row that lacks fewer is fed some tokens that its cache
    holds already, and padding if its text is shorter than that. No token sees the padding before it is overwritten.

    Args:
        engine: The model.
        texts: Token ids of each row, of the rows from ``first_row`` on.
        cached: How many tokens from its start the cache holds of each text.
        first_row: Index of the first row in the cache.
        chunk: The largest number of tokens that one call feeds to a row.
        device: The device that the engine takes its inputs on.
        head: A head that reads the same texts, from what the engine gives out for them; None where there is none.
        slots: If it is not None, every call feeds ``chunk`` tokens that begin at a multiple of it, and sees so many
            slots: what a call computes for a token depends on the row's text alone.
    """
    # A call always returns logits; these are not read.
    unread_B1 = torch.zeros((len(texts), 1), dtype=torch.int64, device=device)
    calls = 0
    for call, following_BC in _calls(texts, cached, first_row, chunk, device, slots):
        states_BCW = engine.run(dataclasses.replace(call, logit_index_BM=unread_B1)).states_BTW
        calls += 1
        if head is not None and states_BCW is not None:
            head.read(call, following_BC, states_BCW, [len(text) - 2 for text in texts])
    return calls


def prefill_scored(
    engine: Engine,
    texts: Sequence[Sequence[int]],
    first_row: int,
    chunk: int,
    device: torch.device,
    slots: int | None = None,
) -> Iterator[torch.Tensor]:
    """Do the same for texts of which a cache holds nothing, and yield the logits [B, C, V] of every chunk.

    The chunks follow each other from the first token of the texts on. Logits after a text's own end mean nothing.
    """
    for call, _ in _calls(texts, [0] * len(texts), first_row, chunk, device, slots):
        yield engine.forward(call)


def _calls(
    texts: Sequence[Sequence[int]],
    cached: Sequence[int],
    first_row: int,
    chunk: int,
    device: torch.device,
    slots: int | None,
) -> Iterator[tuple[Call, torch.Tensor]]:
    """Yield the calls, each of which asks for the logits of all tokens that it feeds, and the tokens after these."""
    missing = max(len(text) - 1 - held for text, held in zip(texts, cached, strict=True))
    starts = [max(len(text) - 1 - missing, 0) for text in texts]
    if slots is not None:
        starts = [held // chunk * chunk for held in cached]
        missing = max(-(-(len(text) - 1 - start) // chunk) for text, start in zip(texts, starts, strict=True)) * chunk
    fed = [text[start : start + missing + 1] for text, start in zip(texts, starts, strict=True)]
    tokens_BT = torch.tensor([[*tokens, *[0] * (missing + 1 - len(tokens))] for tokens in fed], device=device)
    start_B = torch.tensor(starts, device=device)
    for begin in range(0, missing, chunk):
        end = min(begin + chunk, missing)
        tokens_BC = tokens_BT[:, begin:end].contiguous()
        size = tokens_BC.shape[1]
        write_B, offset_C = start_B + begin, torch.arange(size, device=device)
        call = Call(
            input_ids_BT=tokens_BC,
            position_ids_BT=write_B[:, None] + offset_C,
            attention_mask_B1TL=block_mask(write_B, triangle(size, device), slots or aligned(max(starts) + end)),
            write_index_B=write_B,
            logit_index_BM=offset_C.expand(len(texts), -1),
            first_row=first_row,
        )
        yield call, tokens_BT[:, begin + 1 : end + 1].contiguous()
