"""End tokens and sampling parameters of a checkpoint, as real and as malformed files give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, tiny_config

from spectr_export.original.generation import find_end_tokens, foreign_settings, own_sampling
from spectr_runtime import BundleError, SamplingParams


def settings(folder: Path, **values: Any) -> Path:
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


def end_tokens(folder: Path, eos: Any = None, tokenizer: Any = None) -> tuple[int, ...]:
    config = tiny_config("llama", eos_token_id=eos)
    return find_end_tokens(folder, config, tokenizer or byte_tokenizer(), 260)


def test_end_tokens_come_from_all_three_places(tmp_path: Path) -> None:
    assert end_tokens(tmp_path, 7) == (7, 256)
    assert end_tokens(settings(tmp_path, eos_token_id=[9, 7]), 7) == (7, 9, 256)


def test_a_model_may_have_no_end_token(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    assert end_tokens(settings(tmp_path, eos_token_id=None), None, tokenizer) == ()


def test_minus_one_is_no_end_token(tmp_path: Path) -> None:
    assert end_tokens(settings(tmp_path, eos_token_id=[-1, 3]), -1) == (3, 256)


@pytest.mark.parametrize("value", [-2, 260, [0, 260], "<|end|>", [[0]], 0.0, True, {"id": 0}, [0, "1"]])
def test_an_end_token_that_is_no_token_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(BundleError) as caught:
        end_tokens(settings(tmp_path, eos_token_id=value))
    assert caught.value.message == (
        f"{tmp_path / 'generation_config.json'} gives eos_token_id as {value!r}; it must be a token id from 0 to 259, "
        "a list of them, or null."
    )


def test_an_end_token_of_the_configuration_beyond_the_logits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json gives eos_token_id as 260"):
        end_tokens(tmp_path, 260)


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({}, {}),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20}, {"temperature": 0.6, "top_p": 0.95, "top_k": 20}),
        ({"min_p": 0.05, "repetition_penalty": 1.05}, {"min_p": 0.05, "repetition_penalty": 1.05}),
        ({"temperature": 1.0, "top_p": 1, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}, {}),
        ({"temperature": None, "top_k": None, "do_sample": None}, {}),
        ({"do_sample": True, "temperature": 0.7}, {"temperature": 0.7}),
        ({"do_sample": False, "temperature": 0.0, "top_p": 0.0}, {"temperature": 0, "top_p": 0}),
        ({"do_sample": False}, {"temperature": 0}),
        ({"do_sample": False, "temperature": 0.7, "top_k": 5}, {"temperature": 0, "top_k": 5}),
    ],
)
def test_the_models_own_sampling(tmp_path: Path, given: dict[str, Any], sampling: dict[str, float]) -> None:
    found = own_sampling(settings(tmp_path, **given))
    assert found == sampling
    SamplingParams(**found)  # type: ignore[arg-type]


def test_a_checkpoint_without_the_file_has_no_sampling_of_its_own(tmp_path: Path) -> None:
    assert own_sampling(tmp_path) == {}
    assert foreign_settings(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -1, "a number, 0, or from 0.00001 to 1000"),
        ("temperature", "hot", "a number, 0, or from 0.00001 to 1000"),
        ("temperature", True, "a number, 0, or from 0.00001 to 1000"),
        ("temperature", float("nan"), "a number, 0, or from 0.00001 to 1000"),
        ("top_p", 1.5, "a number, 0 to 1"),
        ("top_p", [0.9], "a number, 0 to 1"),
        ("top_k", 20.0, "a whole number, 0 (all tokens) or more"),
        ("top_k", -1, "a whole number, 0 (all tokens) or more"),
        ("min_p", 2, "a number, 0 to 1"),
        ("repetition_penalty", 0, "a number, 0.01 to 100"),
        ("do_sample", "no", "true, false or null"),
    ],
)
def test_a_value_outside_its_range_is_refused_by_file_and_field(
    tmp_path: Path, name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(BundleError) as caught:
        own_sampling(settings(tmp_path, **{name: value}))
    path = tmp_path / "generation_config.json"
    assert caught.value.message == f"{path} gives {name} as {value!r}; it must be {allowed}."


def test_settings_that_spectr_does_not_have_are_named(tmp_path: Path) -> None:
    foreign = {"num_beams": 4, "suppress_tokens": [1], "typical_p": 0.9, "forced_eos_token_id": 2, "min_length": 3}
    assert sorted(foreign_settings(settings(tmp_path, **foreign))) == sorted(foreign)


def test_settings_that_change_nothing_are_not(tmp_path: Path) -> None:
    neutral = {
        "num_beams": 1,
        "typical_p": 1.0,
        "no_repeat_ngram_size": 0,
        "bad_words_ids": None,
        "suppress_tokens": [],
    }
    others = {"max_length": 20, "pad_token_id": 0, "transformers_version": "5.0", "use_cache": True}
    assert foreign_settings(settings(tmp_path, **neutral, **others)) == []
