"""``--config`` replaces fields of a checkpoint's config.json, for one model or both, and the bundle says so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_models import POSITIONS, save_checkpoint, tiny_config, tiny_model
from transformers import AutoModelForCausalLM

from spectr_export.cli import main
from spectr_export.original.configuration.overrides import (
    Override,
    overridden,
    parse_overrides,
    without_effect,
)
from spectr_export.original.model import load_config
from spectr_export.original.scratch import open_scratch
from spectr_export.preparation import BuildOptions, prepare
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams, UsageError

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": POSITIONS}
CARD = f"rope_scaling={json.dumps(YARN)}"
BASE = {"rope_type": "default", "rope_theta": 5e5}
NESTED = {
    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def test_a_value_is_json_or_text() -> None:
    given = ["rope_theta=1e6", "target.hidden_act=silu", "draft.a.b=null", 'x="1"', "y=a=b"]
    assert parse_overrides(given) == [
        Override(None, "rope_theta", 1e6),
        Override("target", "hidden_act", "silu"),
        Override("draft", "a.b", None),
        Override(None, "x", "1"),
        Override(None, "y", "a=b"),
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["rope_theta"], "not of the form KEY=VALUE"),
        (["=1"], "not of the form KEY=VALUE"),
        (["a..b=1"], "not of the form KEY=VALUE"),
        (["target.=1"], "not of the form KEY=VALUE"),
        (["rope_scaling={'factor': 4}"], "a value that is not JSON"),
        (["rope_theta=1", "rope_theta=2"], "gives rope_theta twice"),
        (["rope_theta=1", "draft.rope_theta=2"], r"gives draft\.rope_theta twice"),
    ],
)
def test_an_override_that_cannot_be_read_is_refused(given: Sequence[str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        parse_overrides(given)
    assert caught.value.hint
    assert parse_overrides(["target.rope_theta=1", "draft.rope_theta=2"])


def read(folder: Path, given: Sequence[str], family: str = "llama", **fields: Any) -> tuple[Any, list[str]]:
    """The configuration with overrides as transformers reads it, and the lines on those without effect."""
    settings = tiny_config(family).to_dict()
    if fields.keys() & {"rope_scaling", "rope_parameters"}:
        settings["rope_parameters"] = None
    (folder / "config.json").write_text(json.dumps({**settings, **fields}))
    overrides = parse_overrides(given)
    with open_scratch() as scratch:
        config = load_config(overridden(folder, overrides, scratch))
    return config, without_effect(overrides, config)


@pytest.mark.parametrize(
    ("fields", "given", "expected"),
    [
        ({"rope_parameters": BASE}, [CARD], {**YARN, "rope_theta": 5e5}),
        ({"rope_scaling": None, "rope_theta": 5e5}, [CARD], {**YARN, "rope_theta": 5e5}),
        ({"rope_parameters": BASE}, [CARD.replace("scaling", "parameters")], {**YARN, "rope_theta": 5e5}),
        (
            {"rope_parameters": BASE},
            ["rope_scaling.rope_type=linear", "rope_parameters.factor=2"],
            {"rope_type": "linear", "factor": 2, "rope_theta": 5e5},
        ),
        ({"rope_scaling": YARN}, ["rope_parameters.factor=8"], {**YARN, "factor": 8, "rope_theta": 1e4}),
        ({"rope_parameters": {**YARN, "rope_theta": 5e5}}, ["rope_scaling=null"], BASE),
        ({"rope_parameters": BASE}, ["rope_theta=7"], {**BASE, "rope_theta": 7}),
        ({"rope_scaling": None, "rope_theta": 5e5}, ["rope_theta=7"], {**BASE, "rope_theta": 7}),
        ({"rope_scaling": YARN, "rope_theta": 5e5}, ["rope_theta=7"], {**YARN, "rope_theta": 7}),
        ({"rope_scaling": {**YARN, "rope_theta": 5e5}}, ["rope_theta=7"], {**YARN, "rope_theta": 7}),
    ],
)
def test_both_names_of_the_rotary_parameters_lead_to_what_is_meant(
    tmp_path: Path, fields: dict[str, Any], given: Sequence[str], expected: dict[str, Any]
) -> None:
    config, lines = read(tmp_path, given, **fields)
    assert config.rope_parameters == expected
    assert lines == []


@pytest.mark.parametrize("given", [CARD, f"rope_parameters.full_attention={json.dumps(YARN)}"])
def test_a_card_s_scaling_goes_to_the_layers_of_full_attention(tmp_path: Path, given: str) -> None:
    config, lines = read(tmp_path, [given], "gemma3_text", rope_parameters=NESTED)
    assert config.rope_parameters == {**NESTED, "full_attention": {**YARN, "rope_theta": 1e6}}
    assert lines == []
    for unclear in ("rope_theta=7", "rope_scaling=null"):
        with pytest.raises(UsageError, match="has its rotary parameters by type of layer"):
            read(tmp_path, [unclear], "gemma3_text", rope_parameters=NESTED)


@pytest.mark.parametrize(
    ("family", "given", "reason", "remedy"),
    [
        ("llama", "rope_scalling=1", "llama model has no field 'rope_scalling'", "Did you mean rope_scaling?"),
        ("llama", "return_dict=false", "has no field 'return_dict' that counts", "target."),
        ("gpt2", CARD, "gpt2 model has no field 'rope_scaling'", "target."),
        ("llama", "vocab_size.x=1", "vocab_size is 257 in config.json and has no fields", "--config vocab_size=VALUE"),
        ("llama", "dtype=float16", "a bundle's type is another option", "Use --dtype"),
    ],
)
def test_a_field_that_the_architecture_does_not_have_is_refused(
    tmp_path: Path, family: str, given: str, reason: str, remedy: str
) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        read(tmp_path, [given], family)
    assert remedy in caught.value.hint


def test_other_names_of_a_field_are_known(tmp_path: Path) -> None:
    config, lines = read(tmp_path, ["max_position_embeddings=256"], "gpt2")
    assert (config.n_positions, lines) == (256, [])


def test_what_transformers_reads_otherwise_is_told(tmp_path: Path) -> None:
    _, lines = read(tmp_path, ["use_sliding_window=false", "sliding_window=8"], "qwen2")
    assert lines == ["--config sliding_window=8: transformers reads sliding_window as null, so it has no effect"]
    longrope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0] * 4}
    given = "rope_scaling.original_max_position_embeddings=40"
    _, lines = read(tmp_path, [given], "phi3", rope_scaling=longrope, original_max_position_embeddings=32)
    assert lines == [
        f"--config {given}: transformers reads original_max_position_embeddings as 32, so it has no effect"
    ]


def test_prefixes_name_one_model_and_a_copy_has_what_its_target_has(pair: tuple[Path, Path]) -> None:
    def overrides(draft: str, *given: str) -> Any:
        with open_scratch() as scratch:
            return prepare(BuildOptions(str(pair[0]), draft, config=given), scratch, str).overrides

    small, draft = {"max_position_embeddings": 100}, str(pair[1])
    assert overrides(draft) == {}
    assert overrides(draft, "max_position_embeddings=100") == {"draft": small, "target": small}
    assert overrides(draft, "target.max_position_embeddings=100") == {"target": small}
    assert overrides(draft, "draft.max_position_embeddings=100") == {"draft": small}
    assert overrides("int8", "target.max_position_embeddings=100") == {"draft": small, "target": small}
    with pytest.raises(UsageError, match="a draft in int8 is a copy of the target"):
        overrides("int8", "draft.max_position_embeddings=100")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_refusal_names_the_checkpoint_and_the_override(pair: tuple[Path, Path], tmp_path: Path) -> None:
    given = ("build", pair[0], "--draft", pair[1], "-o", tmp_path / "bundle", "--dry-run")
    result = run(*given, "--config", "rope_scaling.factor=4")
    assert (result.exit_code, result.stdout) == (42, "")
    assert f"Error: {pair[1] / 'config.json'} gives rope_parameters a factor and no type of scaling" in result.stderr
    assert result.stderr.endswith("It was read with --config rope_scaling.factor=4.\n")
    result = run(*given, "--config", "intermediate_sizes=4")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Did you mean intermediate_size?" in result.stderr


def test_fields_that_do_not_fit_the_weights_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("build", pair[0], "--draft", "int8", "-o", tmp_path / "b", "--config", "intermediate_size=44")
    assert result.exit_code == 42
    assert f"Error: {pair[0]}: model.layers.0.mlp.down_proj.weight is (32, 40) in the weights" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_pair_is_built_and_decoded_with_the_scaling_of_its_card(tmp_path: Path) -> None:
    models = {
        role: tiny_model("llama", seed=seed, num_hidden_layers=1) for seed, role in enumerate(("target", "draft"))
    }
    folders = {role: save_checkpoint(tmp_path / role, model) for role, model in models.items()}
    before = {path.name: path.read_bytes() for path in folders["target"].iterdir()}
    output = tmp_path / "bundle"
    result = run("build", folders["target"], "--draft", folders["draft"], "-o", output, "--config", CARD)
    assert result.exit_code == 0, result.output
    said = (
        f"made for texts of {4 * POSITIONS} tokens by rope scaling (yarn, factor 4 x original_max_position_embeddings"
    )
    assert result.stderr.splitlines()[:3] == [
        f"draft: {said} {POSITIONS})",
        f"target: {said} {POSITIONS})",
        f"capacity {4 * POSITIONS} tokens per text",
    ]
    assert {path.name: path.read_bytes() for path in folders["target"].iterdir()} == before
    bundle = Bundle.open(output)
    assert bundle.manifest.overrides == {"draft": {"rope_scaling": YARN}, "target": {"rope_scaling": YARN}}
    assert bundle.manifest.models["target"].max_positions == 4 * POSITIONS
    written = json.loads((output / "target" / "config.json").read_text())["rope_parameters"]
    assert written == {**YARN, "rope_theta": 1e4}
    assert f"            config.json with rope_scaling={json.dumps(YARN)}" in run("inspect", output).stdout.splitlines()
    assert json.loads(run("inspect", output, "--json").stdout)["overrides"]["target"] == {"rope_scaling": YARN}

    original = AutoModelForCausalLM.from_pretrained(folders["target"], rope_parameters={**YARN, "rope_theta": 1e4})
    prompt = [(7 * n * n + 3) % 256 for n in range(2 * POSITIONS)]
    params = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
    with torch.inference_mode():
        expected = original.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=16, eos_token_id=None, pad_token_id=0
        )[0, len(prompt) :].tolist()
    for plan in (Plan.plain(), Plan("kseq", 2, 3)):
        (written,) = Decoder(bundle, plan=plan, batch_size=1).generate([Request("a", tuple(prompt), params)])
        assert isinstance(written, Completion)
        assert list(written.token_ids) == expected
