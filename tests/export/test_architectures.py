from __future__ import annotations

from collections.abc import Callable

import pytest
from architectures import ARCHITECTURES, generated, greedy
from tiny_models import Exported

from spectr_export.parity import check_parity
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

PROMPT = [(7 * n * n + 3) % 256 for n in range(40)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graph_scores_ragged_rows_chunks_and_trees_as_transformers(
    exported: Callable[[str], Exported], architecture: str
) -> None:
    folder, model, spec = exported(architecture)
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, threads=1)
    parity = check_parity(model, engine, name=architecture)
    assert set(parity) == {"prefill", "tree", "steps"}
    assert max(parity.values()) > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_text_is_that_of_generate(exported: Callable[[str], Exported], architecture: str) -> None:
    folder, model, spec = exported(architecture)
    engine = OnnxRuntimeEngine(folder, spec, rows=1, capacity=64, threads=1)
    assert greedy(engine, PROMPT, 12) == generated(model, PROMPT, 12)
