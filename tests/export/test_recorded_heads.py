"""Heads compute what the library ``speculators`` computed; ``recorded/record_eagle3.py`` says how that was recorded."""

# S steps, T tokens of the text, N tokens that a head scores, E its hidden size, F width of the features, L slots.
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_heads import original_names, save_head

from spectr_export.heads.checkpoint import read_head
from spectr_export.heads.fit import fit_head
from spectr_export.heads.member import HeadMember, build_head
from spectr_export.original.scratch import Scratch
from spectr_runtime.contract import Call, Engine, HeadInputs
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.torch import TorchEngine

RECORDED = Path(__file__).parent.parent / "recorded" / "eagle3"
CASES = ("plain", "normed", "qwen3")
TARGET = SimpleNamespace(hidden_size=16, vocab_size=48, num_hidden_layers=4)
ENGINES: list[Callable[..., Any]] = [TorchEngine, OnnxRuntimeEngine]


def build(checkpoint: Path, folder: Path) -> HeadMember:
    scratch = folder / "scratch"
    scratch.mkdir()
    head = read_head(checkpoint, Scratch(scratch, {}))
    member = HeadMember(head, fit_head(head, TARGET), folder, "float32")
    build_head(member, folder / "draft", 64, lambda line: None)
    return member


def drafted(engine: Engine, recorded: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the recorded text, then draft from every place of it at once; logits [S, T, N] and states [S, T, E]."""
    steps, count, _ = recorded["logits"].shape
    features_1TF = recorded["features"][None]
    states_1TE = torch.zeros((1, count, recorded["states"].shape[-1]))
    before_TT, itself_TT = torch.ones((count, count), dtype=torch.bool).tril(), torch.eye(count, dtype=torch.bool)
    logits, states = [], []
    for step in range(steps):
        sees_TL = torch.cat([before_TT, *[itself_TT] * step], -1)
        call = Call(
            input_ids_BT=torch.cat([recorded["ids"][step:], torch.zeros(step, dtype=torch.int64)])[None],
            position_ids_BT=torch.arange(count)[None] + step,
            attention_mask_B1TL=sees_TL[None, None],
            write_index_B=torch.tensor([step * count]),
            logit_index_BM=torch.arange(count)[None],
            head=HeadInputs(features_1TF, states_1TE, torch.full((1, count), step > 0)),
        )
        logits_1TN, given_1TE = engine.run(call)
        assert given_1TE is not None
        states_1TE = given_1TE.clone()
        logits.append(logits_1TN[0].clone())
        states.append(states_1TE[0])
    return torch.stack(logits), torch.stack(states)


@pytest.mark.parametrize("case", CASES)
def test_logits_and_states_are_those_of_speculators(case: str, tmp_path: Path) -> None:
    recorded = load_file(RECORDED / case / "recorded.safetensors")
    spec = build(RECORDED / case, tmp_path).spec
    for make in ENGINES:
        logits_STN, states_STE = drafted(make(tmp_path / "draft", spec, rows=1, capacity=64), recorded)
        torch.testing.assert_close(logits_STN, recorded["logits"], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(states_STE, recorded["states"], atol=1e-4, rtol=1e-4)
        assert recorded["logits"].std() > 0.5


def test_the_original_layout_is_the_same_head(tmp_path: Path) -> None:
    settings = json.loads((RECORDED / "plain" / "config.json").read_text(encoding="utf-8"))
    settings = {
        **settings["transformer_layer_config"],
        "architectures": ["LlamaForCausalLMEagle3"],
        "draft_vocab_size": settings["draft_vocab_size"],
        "eagle_aux_hidden_state_layer_ids": settings["eagle_aux_hidden_state_layer_ids"],
    }
    tensors = original_names(load_file(RECORDED / "plain" / "model.safetensors"))
    assert any(name.startswith("midlayer.") for name in tensors)
    spec = build(save_head(tmp_path / "original", settings, tensors, pickled=True), tmp_path).spec
    recorded = load_file(RECORDED / "plain" / "recorded.safetensors")
    logits_STN, states_STE = drafted(TorchEngine(tmp_path / "draft", spec, rows=1, capacity=64), recorded)
    torch.testing.assert_close(logits_STN, recorded["logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(states_STE, recorded["states"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("case", "choice"),
    [("plain", "norm_before_residual"), ("normed", "norm_before_residual"), ("qwen3", "norm_output")],
)
def test_another_choice_is_another_head(case: str, choice: str, tmp_path: Path) -> None:
    settings = json.loads((RECORDED / case / "config.json").read_text(encoding="utf-8"))
    settings[choice] = not settings[choice]
    other = save_head(tmp_path / "other", settings, load_file(RECORDED / case / "model.safetensors"))
    recorded = load_file(RECORDED / case / "recorded.safetensors")
    logits_STN, _ = drafted(TorchEngine(tmp_path / "draft", build(other, tmp_path).spec, rows=1, capacity=64), recorded)
    assert (logits_STN - recorded["logits"]).abs().max() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_the_tokens_that_a_head_scores_are_read(case: str, tmp_path: Path) -> None:
    tensors = load_file(RECORDED / case / "model.safetensors")
    build(RECORDED / case, tmp_path)
    tokens_N = load_file(tmp_path / "draft" / "tokens.safetensors")["tokens"]
    assert tokens_N.tolist() == tensors["t2d"].nonzero()[:, 0].tolist()
