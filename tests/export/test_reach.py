"""How long a text rotary positions allow, and that texts of that length are scored as transformers scores them."""

# T tokens, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import generated, greedy
from tiny_models import tiny_config, tiny_model
from transformers import AutoConfig

from spectr_export.original.configuration.reach import find_reach, longest_text
from spectr_export.original.model import measure_spec
from spectr_export.storing.save import save_model
from spectr_runtime import BundleError, Call
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.engines.torch import TorchEngine

ORIGINAL = 64
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
LINEAR = {"rope_type": "linear", "factor": 4.0, "original_max_position_embeddings": ORIGINAL}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": ORIGINAL,
}
DEFAULT = {"rope_type": "default"}
GEMMA = {
    "full_attention": {**YARN, "rope_theta": 1e6},
    "sliding_attention": {**DEFAULT, "rope_theta": 1e4},
}
TEXT = [(7 * n * n + 3 * n) % 256 for n in range(4 * ORIGINAL)]


@pytest.mark.parametrize(
    ("family", "scaling", "stated", "expected"),
    [
        ("llama", DEFAULT, ORIGINAL, ORIGINAL),
        ("llama", YARN, ORIGINAL, 4 * ORIGINAL),  # as model cards tell users to write it
        ("llama", YARN, 4 * ORIGINAL, 4 * ORIGINAL),  # as other model cards do
        ("llama", YARN, 80, 4 * ORIGINAL),  # Qwen3: more than the original, less than the product
        ("llama", YARN, 500, 500),
        ("llama", {"rope_type": "yarn", "factor": 4.0}, ORIGINAL, 4 * ORIGINAL),  # transformers fills in the length
        ("llama", {**YARN, "factor": 1.1}, ORIGINAL, 70),
        ("llama", {**YARN, "factor": None}, 4 * ORIGINAL, 4 * ORIGINAL),
        ("llama", LINEAR, ORIGINAL, 4 * ORIGINAL),
        ("llama", {"rope_type": "linear", "factor": 4.0}, ORIGINAL, ORIGINAL),  # before or after? the file is silent
        ("llama", LLAMA3, 4 * ORIGINAL, 4 * ORIGINAL),
        ("llama", DYNAMIC, ORIGINAL, ORIGINAL),
        ("llama", LONGROPE, 4 * ORIGINAL, 4 * ORIGINAL),
        ("gemma3_text", GEMMA, ORIGINAL, 4 * ORIGINAL),
        ("gemma3_text", {**GEMMA, "sliding_attention": {**DYNAMIC, "rope_theta": 1e4}}, ORIGINAL, ORIGINAL),
        ("gpt2", YARN, ORIGINAL, ORIGINAL),  # no rotary positions
    ],
)
def test_the_longest_text_counts_the_scaling(family: str, scaling: dict[str, Any], stated: int, expected: int) -> None:
    config = tiny_config(family, max_position_embeddings=stated, rope_parameters=scaling)
    assert longest_text(config) == expected
    assert bool(find_reach(config).scaling) == (expected > stated)


def test_a_scaling_that_does_not_say_enough_has_its_remedy() -> None:
    silent = tiny_config("llama", max_position_embeddings=64, rope_parameters={"rope_type": "linear", "factor": 4.0})
    assert "`--config rope_parameters.original_max_position_embeddings=64`" in find_reach(silent).remedy
    dynamic = tiny_config("llama", max_position_embeddings=64, rope_parameters=DYNAMIC)
    assert "Beyond 64 tokens dynamic scaling changes the frequencies" in find_reach(dynamic).remedy


def test_bloom_has_a_name_of_its_own_for_the_length() -> None:
    assert longest_text(AutoConfig.for_model("bloom", seq_length=2048)) == 2048
    with pytest.raises(BundleError, match=r"bloom model's config\.json has no max_position_embeddings"):
        longest_text(AutoConfig.for_model("bloom"))


@pytest.mark.parametrize("length", [0, -1, 10**30])
def test_a_length_that_no_text_has_is_refused(length: int) -> None:
    with pytest.raises(BundleError, match=r"gives max_position_embeddings as .*; it must be from 1 to"):
        longest_text(tiny_config("llama", max_position_embeddings=length))
    with pytest.raises(BundleError, match=r"Rope scaling \(yarn, factor 1e\+30 x"):
        longest_text(tiny_config("llama", max_position_embeddings=64, rope_parameters={**YARN, "factor": 1e30}))


def scores(engine: Engine, ids: Sequence[int], chunk: int = 50) -> torch.Tensor:
    """The logits [T, V] behind every token of a text that is read in chunks."""
    parts = []
    for start in range(0, len(ids), chunk):
        tokens, start_B = ids[start : start + chunk], torch.tensor([start])
        columns = torch.arange(len(tokens))
        mask = block_mask(start_B, triangle(len(tokens), columns.device), aligned(start + len(tokens)))
        call = Call(torch.tensor([tokens]), start_B[:, None] + columns, mask, start_B, columns[None])
        parts.append(engine.forward(call)[0].clone())
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("family", "scaling", "stated", "length"),
    [
        ("llama", YARN, ORIGINAL, 4 * ORIGINAL),
        ("llama", LINEAR, ORIGINAL, 4 * ORIGINAL),
        ("llama", LLAMA3, 4 * ORIGINAL, 4 * ORIGINAL),
        ("llama", LONGROPE, 4 * ORIGINAL, ORIGINAL),
        ("llama", DYNAMIC, ORIGINAL, ORIGINAL),
        ("gemma3_text", GEMMA, ORIGINAL, 4 * ORIGINAL),
    ],
    ids=["yarn", "linear", "llama3", "longrope", "dynamic", "by type of layer"],
)
def test_whole_texts_are_scored_and_continued_as_by_transformers(
    tmp_path: Path, family: str, scaling: dict[str, Any], stated: int, length: int
) -> None:
    model = tiny_model(family, max_position_embeddings=stated, rope_parameters=scaling)
    save_model(model, tmp_path)
    spec = measure_spec(model)
    assert spec.max_positions >= length
    engine = TorchEngine(tmp_path, spec, rows=1, capacity=aligned(length))
    with torch.inference_mode():
        expected_TV = model(torch.tensor([TEXT[:length]])).logits[0]
        plain_TV = tiny_model(family, max_position_embeddings=stated)(torch.tensor([TEXT[:length]])).logits[0]
    torch.testing.assert_close(scores(engine, TEXT[:length]), expected_TV, atol=1e-4, rtol=1e-4)
    assert torch.allclose(plain_TV, expected_TV) == (scaling is DYNAMIC)  # which is at work beyond this text alone
    count = 12
    prompt = TEXT[: length - count]
    assert greedy(engine, prompt, count) == generated(model, prompt, count)


def test_dynamic_frequencies_change_where_the_reach_ends() -> None:
    model = tiny_model("llama", max_position_embeddings=ORIGINAL, rope_parameters=DYNAMIC)
    rotary = model.model.rotary_emb
    before, reach = rotary.inv_freq.clone(), longest_text(model.config)
    with torch.inference_mode():
        model(torch.tensor([TEXT[:reach]]))
        assert torch.equal(rotary.inv_freq, before)
        model(torch.tensor([TEXT[: reach + 1]]))
    assert not torch.equal(rotary.inv_freq, before)
