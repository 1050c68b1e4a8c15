from __future__ import annotations

from typing import Any

import pytest
from architectures import ARCHITECTURES
from tiny_models import tiny_config
from transformers import AutoConfig

from spectr_export.original.refusal import refuse_unsupported
from spectr_runtime import BundleError

LONGROPE = {
    "rope_parameters": {
        "rope_type": "longrope",
        "short_factor": [1.5] * 4,
        "long_factor": [2.0] * 4,
        "rope_theta": 1e4,
    },
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda: AutoConfig.for_model("mpt"), "ALiBi position biases"),
        (lambda: AutoConfig.for_model("falcon", alibi=True), "ALiBi position biases"),
        (lambda: AutoConfig.for_model("t5"), "an encoder"),
        (lambda: AutoConfig.for_model("gemma3"), "several modalities"),
        (lambda: tiny_config("gemma3_text", use_bidirectional_attention=True), "attention to later tokens"),
        (lambda: tiny_config("llama4_text", num_local_experts=1), "layers of type 'chunked_attention'"),
        (
            lambda: tiny_config("phi3", **LONGROPE),
            "once a text is longer than 64 tokens; the capacity",
        ),
    ],
)
def test_a_model_beyond_the_contract_is_refused_with_its_reason(config: Any, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        refuse_unsupported(config(), 100)
    assert caught.value.exit_code == 42
    assert caught.value.hint


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_that_are_tested_pass(architecture: str) -> None:
    refuse_unsupported(tiny_config(architecture), 100)


def test_the_hint_names_a_capacity_that_the_short_factors_allow() -> None:
    config = tiny_config("phi3", **LONGROPE)
    with pytest.raises(BundleError) as caught:
        refuse_unsupported(config, 65)
    assert "`--capacity 64`" in caught.value.hint
    refuse_unsupported(config, 64)
