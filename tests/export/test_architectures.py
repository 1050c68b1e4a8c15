from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from architectures import ARCHITECTURES, PROMPT, generated, greedy
from tiny_models import WINDOW, Exported, tiny_model

from spectr_export.checks.parity import check_parity
from spectr_runtime import BundleError
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_graph_scores_ragged_rows_chunks_and_trees_as_transformers(
    exported: Callable[[str], Exported], architecture: str
) -> None:
    folder, model, spec = exported(architecture)
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, threads=1)
    parity = check_parity(model, engine, name=architecture)
    assert set(parity) == {"prefill", "tree", "steps"}
    assert max(parity.values()) > 0


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("mistral", {"sliding_window": None}),
        ("qwen2", {"max_window_layers": 0}),
        ("gemma2", {"attn_logit_softcapping": None}),
        ("gemma3_text", {"sliding_window": WINDOW + 1}),
        ("granite", {"attention_multiplier": 0.25}),
        ("smollm3", {"no_rope_layers": [1, 1]}),
        ("mixtral", {"num_experts_per_tok": 1}),
        ("gpt_oss", {"sliding_window": WINDOW - 1}),
    ],
)
def test_parity_notices_another_attention_or_routing(
    exported: Callable[[str], Exported], architecture: str, changes: dict[str, Any]
) -> None:
    folder, _, spec = exported(architecture)
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, threads=1)
    with pytest.raises(BundleError, match=r"Parity failed \(other"):
        check_parity(tiny_model(architecture, **changes), engine, name="other")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_text_is_that_of_generate(exported: Callable[[str], Exported], architecture: str) -> None:
    folder, model, spec = exported(architecture)
    engine = OnnxRuntimeEngine(folder, spec, rows=1, capacity=64, threads=1)
    assert greedy(engine, PROMPT, 12) == generated(model, PROMPT, 12)
