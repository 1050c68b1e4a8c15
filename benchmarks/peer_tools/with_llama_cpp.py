"""llama.cpp through the low-level calls of llama-cpp-python, plain: its high-level class decodes one row only."""

# B rows, T tokens, V vocabulary.
from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from gguf_file import write_gguf
from worker import Setup

CONTEXT = 512  # slots of a row


class LlamaCpp:
    """A model of llama.cpp with a context for some rows."""

    def __init__(self, path: Path, rows: int) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {path.name}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = CONTEXT * rows, CONTEXT * rows, CONTEXT, rows
        params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context of {rows} rows")
        self._size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(CONTEXT * rows, 0, 1)

    def _feed(self, rows: list[list[int]], start: int, wanted: range) -> None:
        """Feed the rows' next tokens, and ask for the logits of those whose place in their row is wanted."""
        batch: Any = self._batch
        batch.n_tokens = 0
        for row, ids in enumerate(rows):
            for place, token in enumerate(ids):
                at = batch.n_tokens
                batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, start + place, 1
                batch.seq_id[at][0], batch.logits[at] = row, place in wanted
                batch.n_tokens += 1
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama.cpp could not decode a batch")

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def law(self, ids: list[int]) -> list[float]:
        """Read the text in one call."""
        self._clear()
        self._feed([ids], 0, range(len(ids)))
        found = []
        for place, after in enumerate(ids[1:]):
            pointer = llama_cpp.llama_get_logits_ith(self._context, place)
            logits_V = np.ctypeslib.as_array(pointer, (self._size,)).astype(np.float64)
            found.append(float(logits_V[after] - np.logaddexp.reduce(logits_V)))
        return found

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Sample from the whole law with llama.cpp's own sampler."""
        self._clear()
        sampler = llama_cpp.llama_sampler_init_dist(ctypes.c_uint32(seed))
        length, written = len(prompts[0]), [[] for _ in prompts]
        self._feed(prompts, 0, range(length - 1, length))
        for step in range(tokens):
            for row, ids in enumerate(written):
                last = row * length + length - 1 if step == 0 else row
                ids.append(int(llama_cpp.llama_sampler_sample(sampler, self._context, last)))
            if step + 1 < tokens:
                self._feed([[ids[-1]] for ids in written], length + step, range(1))
        llama_cpp.llama_sampler_free(sampler)
        return written


def open_tool(setup: Setup) -> LlamaCpp:
    """Write the GGUF file if need be, and open it."""
    path = setup.made("llama.cpp", f"target-{setup.precision}.gguf")
    write_gguf(Path(setup.target), path, setup.precision)
    return LlamaCpp(path, setup.rows)
