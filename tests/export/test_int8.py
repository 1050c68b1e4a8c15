"""Models in int8 round each row of what they multiply, and ONNX Runtime multiplies integers for them."""

# B rows, T tokens, K inputs, N outputs.
from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from architectures import PROMPT, largest_inputs
from onnx import TensorProto, helper, numpy_helper
from onnxscript import ir
from rounded import check_engines_round, reads_of_the_host
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from spectr_export.checks.parity import check_parity, check_rounded, compare
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import within_spread
from spectr_export.graph.export import export_graph
from spectr_export.graph.rounding import drop_rounding, round_products
from spectr_export.original.model import load_original, measure_spec
from spectr_export.storing.activations import channel_scales
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import quantise
from spectr_export.storing.save import save_model
from spectr_runtime import BundleError, Call, ModelSpec
from spectr_runtime.adapter.rounding import read_roundings
from spectr_runtime.bundle.rows import (
    BASE,
    FINE,
    FINE_LARGEST_CODE,
    LARGEST_CODE,
    LEVELS,
    levels_to_metadata,
    read_levels,
    round_rows,
)
from spectr_runtime.bundle.weights import CODES, SCALES, dequantise
from spectr_runtime.contract import Engine
from spectr_runtime.engines.integer import with_integer_products
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.torch import TorchEngine

WEIGHTS = "model.safetensors"
# Numbers of linear layers and of distinct inputs in each layer: queries, keys and values share one, gate and up too.
# And whether the layer that gives the logits is quantised; opt has its matrix from the embedding.
LAYERS = {"llama": (7, 4, 1), "opt": (6, 4, 1), "gpt2": (4, 4, 0)}
INPUTS, OUTPUTS = 70, (24, 9)
INT8 = Precision("float32", "int8")
SCALE = "model.layers.1.mlp.down_proj.weight.input_scale"
Store = Callable[[str], tuple[Path, ModelSpec]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a function that stores a family in int8 and float32, and returns its folder and sizes."""
    made: dict[str, tuple[Path, ModelSpec]] = {}

    def store(family: str) -> tuple[Path, ModelSpec]:
        if family not in made:
            folder, model = tmp_path_factory.mktemp(family), tiny_model(family)
            spec = dataclasses.replace(measure_spec(model), quantisation="int8")
            save_model(model, folder, StoragePlan.of(model, INT8), inputs=largest_inputs(model, INT8))
            export_graph(folder, spec)
            made[family] = folder, spec
        return made[family]

    return store


class Product(NamedTuple):
    """The graph of two products that share their input, as it is stored.

    Attributes:
        graph: The graph.
        matrix_KN: Both matrices, side by side.
        levels: The largest code of the rows.
    """

    graph: bytes
    matrix_KN: torch.Tensor
    levels: int


@pytest.fixture(scope="module", params=[(LEVELS, LARGEST_CODE), (FINE, FINE_LARGEST_CODE)], ids=["one", "two"])
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Product:
    """Products of rows with codes of one digit or of two."""
    folder, generator = tmp_path_factory.mktemp("product"), torch.Generator().manual_seed(0)
    levels, largest = request.param
    tensors, names = {}, [f"matrix{number}" for number in range(len(OUTPUTS))]
    for name, outputs in zip(names, OUTPUTS, strict=True):
        made = quantise(torch.randn(outputs, INPUTS, generator=generator), "int8", torch.float32, largest=largest)
        tensors |= {name + suffix: tensor for suffix, tensor in made.items()}
    save_file(tensors, folder / WEIGHTS, levels_to_metadata(dict.fromkeys(names, levels)))
    nodes, initializers = [], []
    for name in names:
        nodes.append(helper.make_node("DequantizeLinear", [name + CODES, name + SCALES], [name], axis=1))
        nodes.append(helper.make_node("MatMul", ["x", name], [f"{name}.y"]))
        initializers += [
            numpy_helper.from_array(tensors[name + suffix].numpy(), name + suffix) for suffix in (CODES, SCALES)
        ]
    kinds = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T", INPUTS])]
    results = [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None) for name in names]
    graph = helper.make_graph(nodes, "product", kinds, results, initializers)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))
    round_products(model, {name: name for name in names}, folder)
    matrices = [dequantise(tensors[name + CODES], tensors[name + SCALES]).T for name in names]
    return Product(ir.to_proto(model).SerializeToString(), torch.cat(matrices, 1), levels)


def run(graph: bytes, numbers_BTK: torch.Tensor) -> torch.Tensor:
    """Both products [B, T, N], side by side."""
    options = onnxruntime.SessionOptions()
    # ONNX Runtime would fuse a DequantizeLinear with its product to an operator that rounds once more.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(part) for part in session.run(None, {"x": numbers_BTK.numpy()})], -1)


def rows(*shape: int) -> torch.Tensor:
    """Random rows of very different sizes."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(*shape, INPUTS, generator=generator)
    return numbers * 10 ** torch.linspace(-6, 6, numbers[..., 0].numel()).view(*shape, 1)


def test_rows_are_rounded_to_the_nearest_of_255_numbers() -> None:
    numbers = rows(4, 3)
    rounded, steps = round_rows(numbers, LEVELS), numbers.abs().amax(-1, keepdim=True) / LEVELS
    assert bool(((rounded - numbers).abs() <= 0.501 * steps).all())
    torch.testing.assert_close(rounded / steps, (rounded / steps).round(), atol=1e-4, rtol=0)
    torch.testing.assert_close(rounded.abs().amax(-1), numbers.abs().amax(-1))
    ties = torch.tensor([[LEVELS, 0.5, 1.5, -0.5, -2.5]])
    assert round_rows(ties, LEVELS).tolist() == [[LEVELS, 0, 2, 0, -2]]
    assert round_rows(torch.zeros(2, 3), LEVELS).tolist() == [[0] * 3] * 2


def test_integer_products_are_those_of_rounded_rows(product: Product) -> None:
    graph, matrix_KN, levels = product
    numbers = rows(3, 5)
    expected = round_rows(numbers, levels) @ matrix_KN
    scale = expected.abs().amax(-1, keepdim=True)
    for made in (graph, with_integer_products(graph)):
        torch.testing.assert_close(run(made, numbers) / scale, expected / scale, atol=3e-6, rtol=0)
    exact = numbers @ matrix_KN
    torch.testing.assert_close(run(drop_rounding(graph), numbers) / scale, exact / scale, atol=3e-6, rtol=0)
    assert float(((exact - expected) / scale).abs().max()) > 0.3 / levels


def test_a_row_alone_is_the_same_to_the_bit_as_in_any_batch(product: Product) -> None:
    numbers, integer = rows(8, 9), with_integer_products(product.graph)
    whole = run(integer, numbers)
    for count in range(1, 9):
        for tokens in range(1, 10):
            assert torch.equal(run(integer, numbers[:count, :tokens]), whole[:count, :tokens])


def test_rows_of_zeros_tiny_and_huge_numbers_stay_what_they_are(product: Product) -> None:
    numbers = rows(1, 4)
    numbers[0, 1], numbers[0, 2], numbers[0, 3] = 0, 1e-35, 1e36
    found = run(with_integer_products(product.graph), numbers)
    assert found[0, 1].tolist() == [0] * sum(OUTPUTS)
    assert float(found[0, 2].abs().max()) < 1e-30
    torch.testing.assert_close(found[0, 3], 1e36 * product.matrix_KN.sum(0), atol=1e33, rtol=1e-4)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=["nan", "inf", "-inf"])
def test_a_row_with_a_number_that_is_not_finite_gives_none_that_are(product: Product, number: float) -> None:
    integer, numbers = with_integer_products(product.graph), rows(1, 2)
    expected = run(integer, numbers)
    for place in range(INPUTS):
        hostile = numbers.clone()
        hostile[0, 1, place] = number
        found = run(integer, hostile)
        assert not found[0, 1].isfinite().any()
        assert torch.equal(found[0, 0], expected[0, 0])


@pytest.mark.parametrize("family", LAYERS)
def test_every_layer_multiplies_integers_and_products_of_one_input_are_joined(stored: Store, family: str) -> None:
    folder, spec = stored(family)
    onnx.checker.check_model(folder / "model.onnx")
    kept = (folder / "model.onnx").read_bytes()
    before, after = (
        Counter(node.op_type for node in onnx.load_from_string(data).graph.node)
        for data in (kept, with_integer_products(kept))
    )
    matrices, inputs, head = LAYERS[family]
    assert before["DequantizeLinear"] == matrices * spec.layers + head
    assert before["Round"] == inputs * spec.layers + head
    # Codes of two digits are multiplied as two rows; one DequantizeLinear tells what the first digit stands for.
    assert after["MatMulIntegerToFloat"] == inputs * spec.layers + head
    assert (after["DequantizeLinear"], after["Round"]) == (head, 0)
    assert with_integer_products(with_integer_products(kept)) == with_integer_products(kept)


@pytest.mark.parametrize("family", LAYERS)
def test_all_engines_round_as_the_reference_does(stored: Store, family: str) -> None:
    folder, spec = stored(family)
    assert check_rounded(Reference(load_original(folder)), folder, spec, 128, name=family)["rounded"] > 0
    engines: list[Engine] = [
        TorchEngine(folder, spec, rows=3, capacity=64),
        OnnxRuntimeEngine(folder, spec, rows=3, capacity=64),
        OnnxRuntimeEngine(folder, spec, rows=3, capacity=64, lean=True),
    ]
    check_engines_round(folder, engines, family, 0.005)


def test_no_pass_on_a_device_copies_scales_from_the_host(stored: Store) -> None:
    assert reads_of_the_host(*stored("llama")) == []


def test_a_row_of_a_model_does_not_depend_on_the_batch(stored: Store) -> None:
    folder, spec = stored("llama")
    engine = OnnxRuntimeEngine(folder, spec, rows=8, capacity=16)
    ids = torch.randint(256, (8, 9), generator=torch.Generator().manual_seed(0))

    def read(count: int, tokens: int) -> torch.Tensor:
        places = torch.arange(tokens).repeat(count, 1)
        mask = torch.ones((tokens, tokens), dtype=torch.bool).tril().repeat(count, 1, 1, 1)
        return engine.forward(
            Call(ids[:count, :tokens], places, mask, torch.zeros(count, dtype=torch.int64), places)
        ).clone()

    for tokens in (1, 2, 5, 9):
        whole = read(8, tokens)
        for count in range(1, 8):
            assert torch.equal(read(count, tokens), whole[:count])


def without_levels(source: Path, folder: Path) -> None:
    """Write the same model as older releases did: its weights alone are rounded."""
    folder.mkdir()
    with safe_open(source / WEIGHTS, framework="pt") as file:
        metadata = {key: text for key, text in file.metadata().items() if key != "input_levels"}
    save_file(load_file(source / WEIGHTS), folder / WEIGHTS, metadata)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())


def test_a_bundle_whose_weights_alone_are_int8_is_served_as_it_was(stored: Store, tmp_path: Path) -> None:
    source, spec = stored("llama")
    folder = tmp_path / "older"
    without_levels(source, folder)
    export_graph(folder, spec)
    assert read_levels(folder / WEIGHTS) == {}
    kept = (folder / "model.onnx").read_bytes()
    assert with_integer_products(kept) == kept
    assert "Round" not in {node.op_type for node in onnx.load_from_string(kept).graph.node}
    original = load_original(folder)
    check_parity(original, TorchEngine(folder, spec, rows=3, capacity=128), name="torch")
    check_parity(original, OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, lean=True), name="lean")
    compare(Reference(original), OnnxRuntimeEngine(folder, spec, rows=3, capacity=128), within_spread, name="older")


HOSTILE: Mapping[str, str] = {
    "no JSON": "{",
    "a list": "[127]",
    "a text": '{"model.layers.0.mlp.down_proj.weight": "127"}',
    "zero": '{"model.layers.0.mlp.down_proj.weight": 0}',
    "a fraction": '{"model.layers.0.mlp.down_proj.weight": 1.5}',
    "huge": '{"model.layers.0.mlp.down_proj.weight": 100000}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_malformed_levels_are_refused(stored: Store, tmp_path: Path, what: str) -> None:
    source, spec = stored("llama")
    without_levels(source, tmp_path / "hostile")
    tensors = load_file(source / WEIGHTS)
    save_file(tensors, tmp_path / "hostile" / WEIGHTS, {"format": "pt", "input_levels": HOSTILE[what]})
    users: list[Callable[[], Any]] = [
        lambda: load_original(tmp_path / "hostile"),
        lambda: TorchEngine(tmp_path / "hostile", spec, rows=1, capacity=64),
    ]
    for use in users:
        with pytest.raises(BundleError, match="says malformed things of input_levels"):
            use()


def test_levels_of_a_matrix_that_is_not_there_are_refused(stored: Store, tmp_path: Path) -> None:
    source, _ = stored("llama")
    without_levels(source, tmp_path / "hostile")
    save_file(load_file(source / WEIGHTS), tmp_path / "hostile" / WEIGHTS, levels_to_metadata({"model.none.weight": 9}))
    with pytest.raises(BundleError, match=r"The inputs of model\.none\.weight are to be rounded"):
        load_original(tmp_path / "hostile")


def test_codes_have_seven_bits_where_inputs_are_rounded(stored: Store) -> None:
    folder, _ = stored("llama")
    tensors, levels = load_file(folder / WEIGHTS), read_levels(folder / WEIGHTS)
    largest = {name: int(tensors[name + CODES].abs().max()) for name in levels}
    assert levels.pop("lm_head.weight") == FINE
    assert largest.pop("lm_head.weight") == FINE_LARGEST_CODE
    assert set(largest.values()) == {LARGEST_CODE}
    assert set(levels.values()) == {LEVELS}
    # What two products may add up to in 16 bits.
    assert 2 * LARGEST_CODE * (2 * LEVELS + 1) < 2**15
    assert 2 * FINE_LARGEST_CODE * BASE < 2**15


def with_large_places(family: str = "llama") -> Any:
    """A model of whose inputs a few places are a hundred times as large as the rest, as in trained models."""
    model, chooser = tiny_model(family), torch.Generator().manual_seed(3)
    for layer in model.model.layers:
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            places = torch.randperm(norm.weight.shape[0], generator=chooser)[:2]
            norm.weight.data[places] *= 100
    return model


@torch.inference_mode()
def divergence(folder: Path, model: Any) -> float:
    """How far the law of a stored model is from the model's, in nats per token."""
    ids = torch.tensor([[*reversed(PROMPT)]])
    original_TV, stored_TV = (one(input_ids=ids).logits[0].log_softmax(-1) for one in (model, load_original(folder)))
    return float((original_TV.exp() * (original_TV - stored_TV)).sum(-1).mean())


def test_rows_with_few_large_places_lose_little(tmp_path: Path) -> None:
    model = with_large_places()
    plan = StoragePlan.of(model, INT8)
    save_model(model, tmp_path / "divided", plan, inputs=largest_inputs(model, INT8))
    save_model(model, tmp_path / "whole", plan)
    assert divergence(tmp_path / "divided", model) < 0.6 * divergence(tmp_path / "whole", model)


def test_layers_that_share_their_input_divide_it_once(stored: Store) -> None:
    folder, _ = stored("llama")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    _, inputs, _ = LAYERS["llama"]
    scales = [
        name for node in graph.node if node.op_type == "Div" for name in node.input if name.endswith(".input_scale")
    ]
    tensors = load_file(folder / WEIGHTS)
    assert len(scales) == len(set(scales)) == inputs * 2
    assert all(bool((tensors[f"model.layers.0.self_attn.{name}_proj.weight.input_scale"] != 1).any()) for name in "qkv")


class Divided(NamedTuple):
    """A product in half precision whose input is divided, with a graph that returns the input as it is multiplied.

    Attributes:
        graph: The graph.
        path: File of the weights.
        scale_K: What the input is divided by.
    """

    graph: bytes
    path: Path
    scale_K: torch.Tensor


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Divided:
    """A product in float16, with a place that was idle while the scales were measured."""
    path, half = tmp_path_factory.mktemp("divided") / WEIGHTS, TensorProto.FLOAT16
    scale_K = torch.linspace(0.3, 3, INPUTS).half()
    scale_K[5] = 0.01
    tensors = {
        "matrix.codes": torch.eye(INPUTS, dtype=torch.int8),
        "matrix.scales": torch.ones(INPUTS).half(),
        "matrix.input_scale": scale_K,
    }
    save_file(tensors, path, levels_to_metadata({"matrix": LEVELS}))
    nodes = [
        helper.make_node("DequantizeLinear", ["matrix.codes", "matrix.scales"], ["matrix"], axis=1),
        helper.make_node("MatMul", ["x", "matrix"], ["y"]),
    ]
    kept = [numpy_helper.from_array(tensors[name].numpy(), name) for name in ("matrix.codes", "matrix.scales")]
    kind, result = (helper.make_tensor_value_info(name, half, ["B", INPUTS]) for name in "xy")
    graph = helper.make_graph(nodes, "divided", [kind], [result], kept)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))
    round_products(model, {"matrix": "matrix"}, path.parent)
    made = ir.to_proto(model)
    (product,) = (node for node in made.graph.node if node.op_type == "MatMul")
    made.graph.output[0].name = product.input[0]
    return Divided(made.SerializeToString(), path, scale_K)


@pytest.mark.parametrize("rounding", [True, False])
def test_half_precision_is_divided_and_rounded_in_float32(divided: Divided, rounding: bool) -> None:
    numbers = torch.randn(64, INPUTS, generator=torch.Generator().manual_seed(2)).half()
    numbers[0, 5] = 900.0  # the quotient is no number of float16, which may not spoil the others of the row
    quotients = numbers.float() / divided.scale_K.float()
    expected = (round_rows(quotients, LEVELS) if rounding else quotients).half()
    assert int((~expected.isfinite()).sum()) == 1
    layer = read_roundings(divided.path, rounding=rounding)["matrix"]
    assert torch.equal(layer(numbers), expected)
    graph = divided.graph if rounding else drop_rounding(divided.graph)
    # ONNX Runtime looks for external data of a graph in memory in its working folder.
    model = onnx.load_from_string(graph)
    onnx.load_external_data_for_model(model, str(divided.path.parent))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert torch.equal(torch.from_numpy(session.run(None, {"x": numbers.numpy()})[0]), expected)


@pytest.mark.parametrize("largest", [[0.0, 0.0], [1.0, torch.inf], [torch.nan, 1.0]], ids=str)
def test_without_a_largest_number_nothing_is_divided(largest: list[float]) -> None:
    assert channel_scales(torch.tensor(largest), torch.float16).tolist() == [1, 1]


def test_scales_are_square_roots_whose_product_is_one() -> None:
    scale_K = channel_scales(torch.tensor([4.0, 1.0, 1e-9, 16.0]), torch.float32)
    assert float(scale_K.log().sum()) == pytest.approx(0, abs=1e-5)
    assert (scale_K[[0, 3]] / scale_K[1]).tolist() == pytest.approx([2, 4])
    assert float(scale_K[1] / scale_K[2]) == pytest.approx((1 / 16e-4) ** 0.5)


HOSTILE_SCALES: Mapping[str, torch.Tensor] = {
    "negative": torch.tensor([-1.0, *[1.0] * 95]),
    "infinite": torch.tensor([torch.inf, *[1.0] * 95]),
    "no number": torch.tensor([torch.nan, *[1.0] * 95]),
    "one for all": torch.tensor(1.0),
    "too few": torch.ones(5),
}


@pytest.mark.parametrize("what", HOSTILE_SCALES)
def test_scales_that_do_not_fit_the_matrix_are_refused(stored: Store, tmp_path: Path, what: str) -> None:
    source, spec = stored("llama")
    tensors = load_file(source / WEIGHTS)
    size = len(tensors[SCALE])
    hostile = HOSTILE_SCALES[what]
    tensors[SCALE] = hostile[:size].clone() if hostile.dim() and len(hostile) > size else hostile
    with safe_open(source / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    folder = tmp_path / "hostile"
    folder.mkdir()
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(tensors, folder / WEIGHTS, metadata)
    for use in (lambda: load_original(folder), lambda: TorchEngine(folder, spec, rows=1, capacity=64)):
        with pytest.raises(BundleError, match=r"no positive scale for each input of model\.layers\.1\.mlp\.down_proj"):
            use()
