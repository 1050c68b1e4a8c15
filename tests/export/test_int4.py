"""Matrices are rounded to int4 by what they multiply while the model reads a text, and lose less by it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, save_checkpoint, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_export import member as member_module
from spectr_export.build import build
from spectr_export.original.model import load_original, load_stored
from spectr_export.preparation import BuildOptions
from spectr_export.storing.compensation import DAMPING, measure_feedback, quantise_compensated
from spectr_export.storing.levels import BLOCK, Chooser, asymmetric, symmetric
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_export.text import TOKENS, TOKENS_READ, Texts, windows
from spectr_runtime import BundleError
from spectr_runtime.bundle.weights import read_weights

DEMO = Path(__file__).parents[2] / "examples" / "demo_pair" / "target"
INT4 = Precision("float32", "int4")
WEIGHTS = "model.safetensors"


def correlated(tokens: int, inputs: int) -> torch.Tensor:
    """Inputs of which a few directions carry most, as those of a layer do."""
    generator = torch.Generator().manual_seed(1)
    mixing_KK = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -2, inputs)[:, None]
    return torch.randn(tokens, inputs, generator=generator) @ mixing_KK


def factor(inputs_TK: torch.Tensor) -> torch.Tensor:
    found = measure_feedback(inputs_TK)
    assert found is not None
    return found


def decoded(codes_KN: torch.Tensor, scales_GN: torch.Tensor, minima_GN: torch.Tensor) -> torch.Tensor:
    scales_KN, minima_KN = (each.float().repeat_interleave(BLOCK, 0) for each in (scales_GN, minima_GN))
    return (codes_KN * scales_KN + minima_KN).T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("choose", "minimum"), [(symmetric, 0.0), (asymmetric, 1.25)])
def test_numbers_that_fit_the_levels_come_back_exactly(choose: Chooser, minimum: float, dtype: torch.dtype) -> None:
    codes_KN = torch.randint(-8, 8, (2 * BLOCK, 6), generator=torch.Generator().manual_seed(0))
    codes_KN[::BLOCK], codes_KN[1::BLOCK] = 7, -8
    scales_GN = torch.tensor([[0.5, 2.0, 1.0, 0.25, 4.0, 1.0], [1.0, 1.0, 0.5, 2.0, 1.0, 0.125]])
    matrix_NK = decoded(codes_KN, scales_GN, torch.full((2, 6), minimum))
    found = quantise_compensated(matrix_NK, factor(correlated(300, 2 * BLOCK)), choose, dtype)
    assert torch.equal(found[0], codes_KN.to(torch.int8))
    assert torch.equal(found[1], scales_GN.to(dtype))
    assert torch.equal(found[2], torch.full((2, 6), minimum, dtype=dtype))


@pytest.mark.parametrize("choose", [symmetric, asymmetric])
def test_blocks_of_equal_weights_come_back_exactly(choose: Chooser) -> None:
    matrix_NK = torch.zeros(3, 2 * BLOCK)
    if choose is asymmetric:
        matrix_NK[1] = 3.0
    found = quantise_compensated(matrix_NK, torch.eye(2 * BLOCK), choose, torch.float32)
    assert torch.equal(decoded(*found), matrix_NK)
    assert float(found[1].min()) > 0


def one_by_one(matrix_NK: torch.Tensor, hessian_KK: torch.Tensor) -> torch.Tensor:
    """The method as the paper defines it: after each input, the weights before it move to where they help most."""
    weights_NK, found_NK = matrix_NK.clone(), torch.empty_like(matrix_NK)
    for last in reversed(range(len(hessian_KK))):
        if (last + 1) % BLOCK == 0:
            levels = symmetric(weights_NK[:, last + 1 - BLOCK : last + 1].T, torch.float32)
        inverse_K = torch.linalg.inv(hessian_KK[: last + 1, : last + 1])[last]
        found_NK[:, last] = levels.decode(levels.encode(weights_NK[:, last]))
        errors_N = (weights_NK[:, last] - found_NK[:, last]) / inverse_K[last]
        weights_NK[:, : last + 1] -= errors_N[:, None] * inverse_K
    return found_NK


def test_the_result_is_that_of_the_papers_definition() -> None:
    inputs_TK = correlated(400, 3 * BLOCK)
    matrix_NK = torch.randn(24, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    hessian_KK = inputs_TK.double().T @ inputs_TK.double()
    hessian_KK += DAMPING * hessian_KK.diagonal().mean() * torch.eye(3 * BLOCK)
    found_NK = decoded(*quantise_compensated(matrix_NK, factor(inputs_TK), symmetric, torch.float32))
    expected_NK = one_by_one(matrix_NK.double(), hessian_KK)
    # A weight in the middle between two levels may go to either, and then the rest of its row differs.
    same_N = ((found_NK - expected_NK).abs() < 1e-4).all(1)
    assert float(same_N.float().mean()) > 0.9


@pytest.mark.parametrize("choose", [symmetric, asymmetric])
def test_outputs_err_less_than_half_of_what_rounding_to_nearest_makes_them(choose: Chooser) -> None:
    matrix_NK = torch.randn(16, 4 * BLOCK, generator=torch.Generator().manual_seed(0))
    inputs_TK = correlated(1000, 4 * BLOCK)
    compensated = decoded(*quantise_compensated(matrix_NK, factor(inputs_TK), choose, torch.float32))
    alone = decoded(*quantise_compensated(matrix_NK, torch.eye(4 * BLOCK), choose, torch.float32))
    errors = [(inputs_TK @ (found - matrix_NK).T).square().mean().sqrt() for found in (compensated, alone)]
    assert errors[0] < 0.5 * errors[1]


def test_levels_with_a_minimum_err_less() -> None:
    weights_BN = torch.randn(BLOCK, 400, generator=torch.Generator().manual_seed(0)) + 0.5
    errors = []
    for choose in (symmetric, asymmetric):
        levels = choose(weights_BN, torch.float32)
        errors.append(float((levels.decode(levels.encode(weights_BN)) - weights_BN).square().mean().sqrt()))
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("inputs_TK", [torch.zeros(4, 8), torch.full((4, 8), torch.nan), torch.zeros(0, 8)])
def test_inputs_that_say_nothing_give_no_factor(inputs_TK: torch.Tensor) -> None:
    assert measure_feedback(inputs_TK) is None


def read_ids(count: int = 512) -> list[int]:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_a_model_in_its_files_is_rounded_as_one_in_memory(family: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "ffn_dim": 64, "max_position_embeddings": 256}
    model = tiny_model(family, **sizes)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.save_pretrained(tmp_path / "source")
    stored, plan = load_stored(tmp_path / "source"), StoragePlan.of(model, INT4)
    assert save_model(model, tmp_path / "memory", plan, ids=read_ids()) == plan.matrices.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert save_model(stored.model, tmp_path / "files", plan, stored.weights, ids=read_ids()) == plan.matrices.keys()
    assert all(weight.untyped_storage().nbytes() == 4 for weight in stored.model.parameters() if weight.dim() > 1)
    assert (tmp_path / "memory" / WEIGHTS).read_bytes() == (tmp_path / "files" / WEIGHTS).read_bytes()
    read = read_weights(tmp_path / "memory" / WEIGHTS)
    assert all(float((read[name] - before[name]).std() / before[name].std()) < 0.3 for name in plan.matrices)


def test_each_layer_is_rounded_by_what_the_rounded_layers_before_it_give(tmp_path: Path) -> None:
    model, ids = tiny_model("llama", hidden_size=64, intermediate_size=64), read_ids(256)
    save_model(model, tmp_path, StoragePlan.of(model, INT4), ids=ids)
    rounded = load_original(tmp_path)
    name = "model.layers.1.mlp.down_proj"
    given: list[torch.Tensor] = []
    rounded.get_submodule(name).register_forward_pre_hook(lambda _layer, inputs: given.append(inputs[0][0]))
    with torch.no_grad():
        rounded(input_ids=torch.tensor([ids]))
    found = decoded(*quantise_compensated(model.get_submodule(name).weight, factor(given[0]), symmetric, torch.float32))
    stored = read_weights(tmp_path / WEIGHTS)[f"{name}.weight"]
    assert float(((found - stored).abs() > 1e-4).float().mean()) < 0.01


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=64)
    model.model.layers[1].mlp.down_proj.weight.data[3, 4] = torch.inf
    with pytest.raises(BundleError, match=r"down_proj\.weight holds infinite numbers"):
        save_model(model, tmp_path, StoragePlan.of(model, INT4), ids=read_ids(64))


def test_what_no_text_can_tell_of_is_rounded_by_its_weights_alone_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_module, "export_graph", lambda *_arguments: None)
    monkeypatch.setattr(member_module, "check_onnxruntime", lambda *_arguments, **_options: {"prefill": 0.0})
    model = tiny_model("qwen3_moe", hidden_size=64, moe_intermediate_size=64)
    # The inputs of this matrix are 0 for every token.
    model.model.layers[0].self_attn.v_proj.weight.data.zero_()
    checkpoint = save_checkpoint(tmp_path / "checkpoint", model)
    said: list[str] = []
    build(BuildOptions(str(checkpoint), "int4"), tmp_path / "bundle", say=said.append)
    assert "draft: 4 stacks of experts and 1 matrices that no text reached are rounded by their weights alone" in said


def test_the_texts_to_measure_and_to_round_by_have_nothing_in_common() -> None:
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    own = Texts.of(None, tokenizer, 4096)
    assert (len(own.measured), len(own.read)) == (TOKENS, TOKENS_READ)
    text = "".join(f"line {number}\n" for number in range(2000))
    given = Texts.of(text, tokenizer, 4096)
    whole = tokenizer(text)["input_ids"]
    assert [*given.measured, *given.read] == whole[: TOKENS + TOKENS_READ]
    short = Texts.of(text[:3000], tokenizer, 4096)
    rest = tokenizer(text[:3000])["input_ids"][TOKENS:]
    assert 0 < len(rest) < TOKENS_READ
    assert [*short.read] == [*rest, *own.read][:TOKENS_READ]


def rounded_to_nearest(weight: torch.Tensor) -> torch.Tensor:
    """Every block of 32 inputs with its largest weight at code 7."""
    blocks = weight.view(len(weight), -1, BLOCK)
    scales = blocks.abs().amax(-1, keepdim=True) / 7
    return ((blocks / scales).round() * scales).view_as(weight)


@torch.inference_mode()
def divergence(original: Any, other: Any, ids: list[int]) -> float:
    """Mean Kullback-Leibler divergence in nats per token: what the other model loses on the original's own text."""
    found = []
    for window in windows(ids):
        laws, others = (
            model(input_ids=torch.tensor([window])).logits[0].log_softmax(-1) for model in (original, other)
        )
        found.append((laws.exp() * (laws - others)).sum(-1))
    return float(torch.cat(found).mean())


def test_the_demo_target_loses_less_than_half_of_what_rounding_to_nearest_loses(tmp_path: Path) -> None:
    load = functools.partial(AutoModelForCausalLM.from_pretrained, DEMO, dtype=torch.float32)
    texts = Texts.of(None, AutoTokenizer.from_pretrained(DEMO), 4096)
    original, nearest, stored = load().eval(), load().eval(), load_stored(DEMO)
    for module in nearest.model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = rounded_to_nearest(module.weight.data)
    others = [nearest]
    for form in ("int4", "int4-asymmetric"):
        plan = StoragePlan.of(stored.model, Precision("float32", form))
        save_model(stored.model, tmp_path / form, plan, stored.weights, ids=texts.read)
        others.append(load_original(tmp_path / form))
    plain, lost, asymmetric_lost = (divergence(original, other, [*texts.measured]) for other in others)
    assert 0 < asymmetric_lost < lost < 0.5 * plain
