"""``examples/pad_target.py`` writes a larger model with the same law, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from scripts import load_script
from tiny_models import POSITIONS, save_checkpoint, tiny_model
from transformers import AutoModelForCausalLM

WIDER = ("--hidden", 128, "--mlp", 64, "--heads", 8, "--layers", 3)
Pad = Callable[..., Result]


@pytest.fixture
def script() -> ModuleType:
    return load_script("examples/pad_target.py")


@pytest.fixture
def pad(script: ModuleType, tmp_path: Path) -> Pad:
    """Pads a tiny model into the folder ``padded``."""

    def run(model: Any, *options: object) -> Result:
        source = save_checkpoint(tmp_path / "source", model)
        arguments = [source, tmp_path / "padded", *(options or WIDER)]
        return CliRunner().invoke(script.main, [str(argument) for argument in arguments])

    return run


@torch.inference_mode()
def logits(folder: Path) -> torch.Tensor:
    """Of two rows of random bytes."""
    ids_BT = torch.randint(256, (2, POSITIONS), generator=torch.Generator().manual_seed(5))
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model(input_ids=ids_BT).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize("tied", [True, False])
def test_a_padded_model_is_larger_and_computes_the_same_logits(pad: Pad, tmp_path: Path, tied: bool) -> None:
    result = pad(tiny_model("llama", tie_word_embeddings=tied).half())
    assert result.exit_code == 0, result.output
    assert "the same law" in result.output
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "padded")
    layer = model.model.layers[2]
    assert model.dtype == torch.float16
    assert layer.mlp.down_proj.weight.shape == (128, 64)
    assert (layer.self_attn.q_proj.out_features, layer.self_attn.k_proj.out_features) == (64, 32)
    assert torch.allclose(logits(tmp_path / "padded"), logits(tmp_path / "source"), atol=1e-4, rtol=0)


def test_a_model_with_another_law_is_not_written(pad: Pad, script: ModuleType, tmp_path: Path) -> None:
    script.norm_factor = lambda config, wider: 1.0
    result = pad(tiny_model("llama"))
    assert result.exit_code == 1
    assert "Nothing was written" in result.output
    assert not (tmp_path / "padded").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--hidden", 16), "hidden_size is 16"), ((*WIDER, "--heads", 7), "7 heads"), ((*WIDER, "--mlp", 8), "is 8")],
)
def test_a_size_that_cannot_hold_the_source_is_refused(
    pad: Pad, tmp_path: Path, options: tuple[object, ...], said: str
) -> None:
    result = pad(tiny_model("llama"), *options)
    assert result.exit_code == 1
    assert said in result.output
    assert not (tmp_path / "padded").exists()


def test_another_architecture_is_refused(pad: Pad) -> None:
    result = pad(tiny_model("gpt_neox"))
    assert result.exit_code == 1
    assert "GPTNeoXForCausalLM" in result.output
