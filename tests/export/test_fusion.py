from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from architectures import ARCHITECTURES
from tiny_models import Exported

# The numbers of both kinds of norms, of rotations and of attentions that are one operator, in two layers.
FUSED = {
    "llama": (5, 0, 4, 2),
    "mistral": (5, 0, 4, 2),
    "qwen2": (5, 0, 4, 2),
    "qwen3": (9, 0, 4, 2),
    "gemma": (5, 0, 4, 2),
    "gemma2": (9, 0, 4, 0),
    "gemma3_text": (13, 0, 4, 2),
    "phi": (0, 3, 4, 2),
    "phi3": (5, 0, 4, 2),
    "gpt2": (0, 5, 0, 2),
    "opt": (0, 5, 0, 2),
    "gpt_neox": (0, 5, 4, 2),
    "stablelm": (0, 5, 4, 2),
    "olmo2": (9, 0, 4, 2),
    "granite": (5, 0, 4, 2),
    "smollm3": (5, 0, 2, 2),
    "falcon": (0, 3, 4, 2),
    "bloom": (0, 6, 0, 2),
    "qwen3_moe": (9, 0, 4, 2),
    "mixtral": (5, 0, 4, 2),
    "gpt_oss": (5, 0, 4, 0),
}
# These layers flatten rows and tokens into one dimension and restore both.
FLATTENING = {"gpt2", "opt", "qwen3_moe", "mixtral", "gpt_oss"}
# One product each for queries, keys and values; the output; gate and up; down; and the head.
PRODUCTS = 2 * 4 + 1


def operators(folder: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(folder / "model.onnx", load_external_data=False).graph.node)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_become_the_operators_that_the_opset_has(exported: Callable[[str], Exported], architecture: str) -> None:
    found = operators(exported(architecture).folder)
    names = ("RMSNormalization", "LayerNormalization", "RotaryEmbedding", "Attention")
    assert tuple(found[name] for name in names) == FUSED[architecture]
    assert found["ReduceMean"] == found["Neg"] == found["Reciprocal"] == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_are_constants_but_for_the_attention_length(
    exported: Callable[[str], Exported], architecture: str
) -> None:
    found = operators(exported(architecture).folder)
    assert found["Shape"] == (3 if architecture in FLATTENING else 1)
    assert found["ConstantOfShape"] == found["Range"] == found["Identity"] == 0


@pytest.mark.parametrize(
    "architecture", ["llama", "mistral", "qwen2", "qwen3", "gemma", "olmo2", "granite", "stablelm"]
)
def test_products_of_one_input_are_one(exported: Callable[[str], Exported], architecture: str) -> None:
    assert operators(exported(architecture).folder)["MatMul"] == PRODUCTS


def test_biases_of_joined_products_are_added_at_once(exported: Callable[[str], Exported]) -> None:
    with_biases, without = (operators(exported(name).folder)["Add"] for name in ("qwen2", "llama"))
    assert with_biases - without == 2  # one in each layer
