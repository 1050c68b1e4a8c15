from __future__ import annotations

from typing import Any

import pytest
from tiny_models import tiny_config
from transformers import AutoConfig

from spectr_export.refusal import refuse_unsupported
from spectr_runtime import BundleError

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 64,
    "rope_theta": 1e4,
}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (lambda: tiny_config("mixtral"), r"mixtures of experts \(num_"),
        (lambda: tiny_config("gemma2"), r"soft-capped attention \(attn_logit_softcapping = 50.0\)"),
        (lambda: AutoConfig.for_model("bloom"), "ALiBi position biases"),
        (lambda: AutoConfig.for_model("falcon", alibi=True), "ALiBi position biases"),
        (lambda: AutoConfig.for_model("t5"), "an encoder"),
        (lambda: AutoConfig.for_model("gemma3"), "several modalities"),
        (lambda: tiny_config("mistral", sliding_window=99), "a sliding window of 99 tokens, shorter than"),
        (lambda: tiny_config("gemma3_text", sliding_window=16), "a sliding window of 16 tokens, shorter than"),
        (lambda: tiny_config("qwen2", use_sliding_window=True, sliding_window=64, max_window_layers=1), "sliding"),
        (lambda: tiny_config("llama4_text", num_local_experts=1), "layers of type 'chunked_attention'"),
        (lambda: tiny_config("phi3", rope_parameters=LONGROPE), "rotary positions of type 'longrope'"),
        (
            lambda: tiny_config("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "rotary positions of type 'dynamic'",
        ),
        (lambda: tiny_config("llama", quantization_config={"quant_method": "gptq", "bits": 4}), "quantised weights"),
    ],
)
def test_a_model_beyond_the_contract_is_refused_with_its_reason(config: Any, reason: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        refuse_unsupported(config(), 100)
    assert caught.value.exit_code == 42
    assert caught.value.hint


@pytest.mark.parametrize(
    "config",
    [
        tiny_config("llama"),
        tiny_config("llama", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        tiny_config("qwen2"),
        tiny_config("gpt2"),
        tiny_config("opt"),
        tiny_config("mistral", sliding_window=100),
        tiny_config("mistral", sliding_window=None),
        tiny_config("qwen2", use_sliding_window=False, sliding_window=16),
    ],
)
def test_dense_models_with_full_attention_pass(config: Any) -> None:
    refuse_unsupported(config, 100)


def test_the_hint_names_a_capacity_that_the_window_allows() -> None:
    with pytest.raises(BundleError) as caught:
        refuse_unsupported(tiny_config("mistral", sliding_window=99), 100)
    assert "`--capacity 99`" in caught.value.hint
    refuse_unsupported(tiny_config("mistral", sliding_window=99), 99)
