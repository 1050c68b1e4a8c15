"""Mixtures whose graph multiplies with the experts of a layer in several products."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import pytest
import torch
from tiny_models import tiny_model

from spectr_export.checks.parity import check_onnxruntime, check_parity
from spectr_export.checks.reference import Reference
from spectr_export.graph.export import export_graph
from spectr_export.original.model import load_original, measure_spec
from spectr_export.storing.save import save_model
from spectr_export.weights import read_header
from spectr_runtime.bundle import stacks
from spectr_runtime.bundle.stacks import experts_per_product, products
from spectr_runtime.engines.torch import TorchEngine


def test_experts_that_divide_a_stack_make_a_product_of_limited_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert experts_per_product((128, 1536, 2048)) == 16
    assert experts_per_product((6, 3, 5)) == 6
    assert experts_per_product((8, 28672, 4096)) == 1
    monkeypatch.setattr(stacks, "PRODUCT", 75)
    assert experts_per_product((6, 3, 5)) == 3  # and not 5, which would leave one


@pytest.mark.parametrize("limit", [60, 10**6])
@pytest.mark.parametrize("inputs_first", [False, True])
def test_products_are_what_the_experts_are_together(
    inputs_first: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "PRODUCT", limit)
    stack_XKN = torch.randn(4, 6, 5)
    stack = stack_XKN if inputs_first else stack_XKN.transpose(1, 2)
    token_K = torch.randn(6)
    made = torch.cat([token_K @ matrix for matrix in products(stack, up=True, inputs_first=inputs_first)])
    torch.testing.assert_close(made, torch.cat([token_K @ expert for expert in stack_XKN]))
    inner_XK = torch.randn(4, 6)
    matrices = list(products(stack, up=False, inputs_first=inputs_first))
    assert len(matrices) == (2 if limit == 60 else 1)
    parts = inner_XK.view(len(matrices), -1)
    made = torch.stack([part @ matrix for part, matrix in zip(parts, matrices, strict=True)]).sum(0)
    torch.testing.assert_close(made, torch.einsum("xk,xkn->n", inner_XK, stack_XKN))


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "gpt_oss"])
def test_each_product_reads_its_experts_where_they_stand(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "PRODUCT", 6000)
    model = tiny_model(architecture)
    spec = measure_spec(model)
    save_model(model, tmp_path)
    export_graph(tmp_path, spec)
    tensors = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph.initializer
    parts = [tensor for tensor in tensors if "_proj." in tensor.name and tensor.name.rpartition(".")[2].isdigit()]
    assert parts
    assert all(math.prod(tensor.dims) <= 6000 for tensor in parts)
    read = sum(int(entry.value) for tensor in tensors for entry in tensor.external_data if entry.key == "length")
    assert read == sum(entry.length for entry in read_header(tmp_path / "model.safetensors").values())
    original = load_original(tmp_path)
    check_onnxruntime(Reference(original), tmp_path, spec, 128, name=architecture)
    check_parity(original, TorchEngine(tmp_path, spec, rows=3, capacity=128), name=architecture)
