"""Rotary parameters as people write them: what cannot be meant is refused in words, before a model is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import ARCHITECTURES
from tiny_models import tiny_config

from spectr_export.original.model import load_config
from spectr_export.original.refusal import refuse_unsupported
from spectr_runtime import BundleError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
BASE = {"rope_type": "default", "rope_theta": 1e6}


def write(folder: Path, family: str = "llama", **fields: Any) -> Path:
    """A configuration as older releases of transformers wrote it, with other fields in it."""
    settings = tiny_config(family, max_position_embeddings=64).to_dict()
    settings |= {"rope_parameters": None, **fields}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("scaling", "reason", "remedy"),
    [
        ("yarn", "gives rope_scaling as 'yarn'; it must be an object", "--config rope_scaling=VALUE"),
        ({**YARN, "factor": "4"}, r"rope_scaling\.factor as '4'; it must be a number of at least 1", "factor=VALUE"),
        ({**YARN, "factor": True}, r"rope_scaling\.factor as True; it must be a number", "factor=VALUE"),
        ({**YARN, "factor": 0.5}, r"rope_scaling\.factor as 0\.5; it must be a number of at least 1", "factor=VALUE"),
        ({**YARN, "factor": float("nan")}, r"rope_scaling\.factor as nan; it must be", "factor=VALUE"),
        (
            {**YARN, "original_max_position_embeddings": "64"},
            "original_max_position_embeddings as '64'; it must be a whole number",
            "original_max_position_embeddings=VALUE",
        ),
        ({**YARN, "beta_fast": "32"}, r"rope_scaling\.beta_fast as '32'; it must be a number above 0", "beta_fast="),
        ({"type": "yarn"}, "the type 'yarn' and no factor; yarn needs factor", "--config rope_scaling.factor=VALUE"),
        ({"type": "linear", "factor": None}, "the type 'linear' and no factor", "factor=VALUE"),
        (LLAMA3, "the type 'llama3' and no original_max_position_embeddings", "original_max_position_embeddings="),
        (
            {**LLAMA3, "original_max_position_embeddings": 32, "high_freq_factor": 1},
            r"low_freq_factor as 1\.0 and high_freq_factor as 1; the former must be the lower",
            "low_freq_factor=VALUE",
        ),
        ({**LONGROPE, "short_factor": None}, "the type 'longrope' and no short_factor", "short_factor=VALUE"),
        ({**LONGROPE, "long_factor": "2"}, "long_factor as '2'; it must be a list of numbers", "long_factor=VALUE"),
        (
            {**LONGROPE, "long_factor": [2.0] * 3},
            "gives 3 numbers as long_factor .* has 4 frequencies",
            "Take the list",
        ),
        (
            {**LONGROPE, "rope_type": "su"},
            "'su', which transformers calls 'longrope'",
            "rope_scaling.rope_type=longrope",
        ),
        ({**YARN, "type": "linear"}, "two types: rope_type 'yarn' and type 'linear'", "Leave one of them"),
        ({**YARN, "rope_type": None}, r"rope_scaling\.rope_type as None; it must be a text", "rope_type=VALUE"),
        ({"factor": 4.0}, "a factor and no type of scaling", "--config rope_scaling.rope_type=yarn"),
        ({"rope_type": "default", "factor": 4.0}, "a factor and no type of scaling", "rope_scaling.rope_type=yarn"),
        (
            {"type": "yarn", "factor": 4.0, "original_max_positional_embeddings": 64},
            r"original_max_positional_embeddings, which transformers does not read; it reads original_max_position_emb",
            "Correct the name",
        ),
        ({"full_attention": YARN}, "gives full_attention among .* llama model for all layers alike", "into rope_param"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(tmp_path: Path, scaling: Any, reason: str, remedy: str) -> None:
    with pytest.raises(BundleError, match=reason) as caught:
        load_config(write(tmp_path, rope_scaling=scaling))
    assert str(tmp_path / "config.json") in caught.value.message
    assert remedy in caught.value.hint


def test_the_parameters_of_each_type_of_layer_are_checked(tmp_path: Path) -> None:
    parameters = {"full_attention": {**YARN, "factor": "4"}, "sliding_attention": {"rope_type": "default"}}
    with pytest.raises(BundleError, match=r"rope_parameters\.full_attention\.factor as '4'"):
        load_config(write(tmp_path, "gemma3_text", rope_parameters=parameters))
    with pytest.raises(BundleError, match=r"gives rope_type, factor, original_max_\S+ among .* for each type of layer"):
        load_config(write(tmp_path, "gemma3_text", rope_parameters=YARN))


def test_a_card_s_scaling_beside_parameters_that_would_be_lost_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"both rope_scaling and rope_parameters; .* rope_theta 1000000\.0 of") as one:
        load_config(write(tmp_path, rope_scaling=YARN, rope_parameters=BASE))
    assert json.dumps({"rope_theta": 1e6, **YARN}) in one.value.hint
    config = load_config(write(tmp_path, rope_scaling=YARN, rope_parameters=BASE, rope_theta=1e6))
    assert config.rope_parameters == {**YARN, "rope_theta": 1e6}


@pytest.mark.parametrize("name", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    "scaling",
    [None, {}, YARN, {**YARN, "factor": None}, {**YARN, "finetuned": True}, {**LONGROPE, "type": "longrope"}],
)
def test_parameters_that_transformers_reads_are_taken(tmp_path: Path, name: str, scaling: Any) -> None:
    config = load_config(write(tmp_path, **{name: scaling}))
    assert (scaling or {}).items() <= config.rope_parameters.items()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_parameters_of_every_architecture_are_taken(tmp_path: Path, architecture: str) -> None:
    tiny_config(architecture).save_pretrained(tmp_path)
    assert load_config(tmp_path).model_type == architecture


def test_a_type_that_transformers_does_not_have_is_refused(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, rope_scaling={"type": "ntk", "factor": 2.0}))
    with pytest.raises(BundleError, match="The llama model has rotary positions of type 'ntk'") as caught:
        refuse_unsupported(config, 64)
    assert "types are default, dynamic, linear, llama3, longrope" in caught.value.hint
