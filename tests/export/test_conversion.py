"""Checkpoints in other forms than transformers' own are read weight by weight and expert by expert."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import Concatenate, MergeModulelist, Transpose, WeightConverter

from spectr_export.original.conversion import read_checkpoint
from spectr_export.original.model import load_stored, outline
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_export.weights import read_header
from spectr_runtime import BundleError

TABLE = "transformers.conversion_mapping"
MIXTURES = ("qwen3_moe", "mixtral", "gpt_oss")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_weight_is_what_transformers_loads(architecture: str, tmp_path: Path) -> None:
    tiny_model(architecture).bfloat16().save_pretrained(tmp_path, max_shard_size="30kB")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    weights = load_stored(tmp_path).weights
    assert weights.keys() == dict(loaded.named_parameters()).keys()
    for name, tensor in loaded.named_parameters():
        assert (weights[name].dtype, weights[name].shape) == (torch.bfloat16, tensor.shape)
        assert torch.equal(weights[name].read(), tensor.float())


@pytest.mark.parametrize("architecture", MIXTURES)
def test_experts_are_read_and_written_one_by_one(architecture: str, tmp_path: Path) -> None:
    model = tiny_model(architecture).bfloat16()
    model.save_pretrained(tmp_path / "source")
    separate = [name for name in load_file(tmp_path / "source" / "model.safetensors") if ".experts.1." in name]
    assert bool(separate) == (architecture != "gpt_oss")
    stored = load_stored(tmp_path / "source")
    stacks = {name: weight for name, weight in stored.weights.items() if len(weight.shape) == 3}
    assert len(stacks) == 4
    for weight in stacks.values():
        assert len(weight.parts) == weight.shape[0] > 1
        assert {part().shape for part in weight.parts} == {(1, *weight.shape[1:])}
    save_model(stored.model, tmp_path / "one", StoragePlan.of(stored.model, Precision("float32")), stored.weights)
    written = load_file(tmp_path / "one" / "model.safetensors")
    assert all(torch.equal(written[name], tensor.float()) for name, tensor in model.named_parameters())


@pytest.mark.parametrize("architecture", MIXTURES)
def test_a_mixture_computes_with_one_expert_at_a_time(architecture: str, tmp_path: Path) -> None:
    tiny_model(architecture).bfloat16().save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    model, text = load_stored(tmp_path).model, torch.arange(9)[None]
    with torch.inference_mode():
        assert torch.equal(model(text).logits, expected(text).logits)


def test_operations_are_followed_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two halves of the experts' first stack are stored apart and transposed."""
    model = tiny_model("gpt_oss")
    table = [
        WeightConverter(
            ["experts.*.gate.weight", "experts.*.up.weight"],
            "experts.gate_up_proj",
            [MergeModulelist(dim=0), Concatenate(dim=1), Transpose(1, 2)],
        )
    ]
    monkeypatch.setattr(sys.modules[TABLE], "get_model_conversion_mapping", lambda _model: table)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    expected = {name: tensors.pop(name) for name in list(tensors) if name.endswith("gate_up_proj")}
    for name, stack in expected.items():
        for number, expert in enumerate(stack):
            for half, tensor in zip(("gate", "up"), expert.T.chunk(2), strict=True):
                tensors[name.replace("gate_up_proj", f"{number}.{half}.weight")] = tensor.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    model.config.save_pretrained(tmp_path)
    weights = read_checkpoint(tmp_path, outline(model.config))
    for name, stack in expected.items():
        assert len(weights[name].parts) == len(stack)
        assert torch.equal(weights[name].read(), stack)


@pytest.mark.parametrize("operations", [[MergeModulelist(dim=1)], [MergeModulelist(dim=0), Concatenate(dim=0)]])
def test_a_stack_that_mixes_its_experts_is_refused(
    operations: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("mixtral")
    model.save_pretrained(tmp_path)
    table = get_checkpoint_conversion_mapping("mixtral")
    table[1].operations = operations
    monkeypatch.setattr(sys.modules[TABLE], "get_model_conversion_mapping", lambda _model: table)
    with pytest.raises(BundleError, match=r"gate_up_proj is joined by MergeModulelist.* one expert at a time"):
        read_checkpoint(tmp_path, outline(model.config))


@pytest.mark.parametrize("equal", [False, True])
def test_of_tied_weights_that_are_both_stored_one_is_read_if_they_are_equal(tmp_path: Path, equal: bool) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    tensors["lm_head.weight"] += 0 if equal else 1
    model.config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    stored = load_stored(tmp_path)
    assert ("lm_head.weight" in stored.weights) is not equal
    save_model(stored.model, tmp_path / "one", weights=stored.weights)
    header = read_header(tmp_path / "one" / "model.safetensors")
    assert ("lm_head.weight" in header) is not equal
    with torch.inference_mode():
        logits = stored.model(torch.arange(5)[None]).logits
        expected = AutoModelForCausalLM.from_pretrained(tmp_path)(torch.arange(5)[None]).logits
    torch.testing.assert_close(logits, expected)


def test_a_checkpoint_that_names_the_other_of_two_tied_weights_is_read(tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    del tensors["model.embed_tokens.weight"]
    model.config.save_pretrained(tmp_path)
    save_file(tensors, tmp_path / "model.safetensors")
    weights = load_stored(tmp_path).weights
    assert torch.equal(weights["model.embed_tokens.weight"].read(), tensors["lm_head.weight"])
    assert "lm_head.weight" not in weights
