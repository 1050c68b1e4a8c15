"""onnxruntime-genai, plain, with the graph that its own builder makes."""

# B rows, T tokens, V vocabulary.
from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime_genai
from worker import Setup, run


def build(setup: Setup) -> Path:
    """Make the graph, once for all rows."""
    graph = setup.made("onnxruntime-genai", setup.precision)
    if not (graph / "genai_config.json").exists():
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", setup.target, "-o", str(graph)]
        options = ["-p", setup.precision, "-e", "cpu", "-c", str(setup.made("onnxruntime-genai", "cache"))]
        run(*command, *options)
    return graph


class OnnxRuntimeGenai:
    """A model of onnxruntime-genai."""

    def __init__(self, model: onnxruntime_genai.Model) -> None:
        self._model = model

    def _generator(self, rows: int, length: int, **options: object) -> onnxruntime_genai.Generator:
        params = onnxruntime_genai.GeneratorParams(self._model)
        params.set_search_options(batch_size=rows, max_length=length, min_length=length, **options)
        return onnxruntime_genai.Generator(self._model, params)

    def law(self, ids: list[int]) -> list[float]:
        """Feed the text token by token: only the logits of the last one are given."""
        generator, found = self._generator(1, len(ids) + 1), []
        for token, after in pairwise(ids):
            generator.append_tokens(np.array([[token]], dtype=np.int32))
            logits_V = np.asarray(generator.get_logits()).reshape(-1).astype(np.float64)
            found.append(float(logits_V[after] - np.logaddexp.reduce(logits_V)))
        return found

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Sample from the whole law."""
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "random_seed": seed}
        generator = self._generator(len(prompts), len(prompts[0]) + tokens, **law)
        generator.append_tokens(np.array(prompts, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return [list(map(int, generator.get_sequence(row)[len(ids) :])) for row, ids in enumerate(prompts)]


def open_tool(setup: Setup) -> OnnxRuntimeGenai:
    """Make the graph if need be, and open it."""
    return OnnxRuntimeGenai(onnxruntime_genai.Model(str(build(setup))))
