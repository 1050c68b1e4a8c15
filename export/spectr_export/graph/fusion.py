"""Simplifies a traced graph: operators of opset 23 in place of their parts, and no arithmetic on shapes."""

# B rows, T tokens fed, R size of the part of a head that is rotated, D head size.
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from onnxscript import ir, optimizer
from onnxscript.ir import passes
from onnxscript.rewriter import RewriteRule, RewriteRuleSet, pattern, rewrite
from onnxscript.rewriter.rules import common

from spectr_export.graph.merging import merge_products

END = 2**63 - 1  # the end of a traced slice that has none


def simplify(graph: ir.Model, weights: set[str]) -> None:
    """Fold constants, but nothing that is computed from a weight, and fuse the parts of operators that the opset has.

    Args:
        graph: The traced graph, with its dimensions named; changed in place.
        weights: Names of the initializers that are not folded.
    """
    fold(graph, weights)
    fuse(graph)
    merge_products(graph)
    fix_reshapes(graph)
    for finish in (
        passes.common.CommonSubexpressionEliminationPass(),
        passes.common.RemoveUnusedNodesPass(),
        # The metadata hold stack traces from the machine that made the graph.
        passes.common.ClearMetadataAndDocStringPass(),
    ):
        finish(graph)


def fold(graph: ir.Model, weights: set[str]) -> None:
    """Compute all that depends on constants alone, but not on weights, and drop nodes that change nothing."""

    def should_fold(node: ir.Node) -> bool | None:
        return False if any(value is not None and value.name in weights for value in node.inputs) else None

    for _ in range(2):  # the rewriting lets more be folded
        optimizer.fold_constants_ir(graph, onnx_shape_inference=True, should_fold=should_fold)
        rewrite(graph, pattern_rewrite_rules=TIDYING)
    for finish in (
        passes.common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.common.DeduplicateInitializersPass(),
        passes.common.CommonSubexpressionEliminationPass(),
        passes.common.OutputFixPass(),
        passes.common.NameFixPass(),
    ):
        finish(graph)


def fuse(graph: ir.Model) -> None:
    """Put normalisations and rotary embeddings of the opset in place of the nodes that compute them."""
    for rules in (NORMS, DOUBLINGS, ROTATIONS, PARTIAL_ROTATIONS):
        rewrite(graph, pattern_rewrite_rules=rules)


def fix_reshapes(graph: ir.Model) -> None:
    """Give every reshape a constant shape if all dynamic sizes but one keep their dimension."""
    for node in graph.graph.all_nodes():
        if node.op_type == "Reshape" and (target := _constant_shape(node)) is not None:
            name = f"{node.outputs[0].name}_shape"
            shape = ir.Value(name=name, const_value=ir.tensor(target, ir.DataType.INT64, name=name))
            graph.graph.initializers[name] = shape
            node.replace_input_with(1, shape)
            node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)


def _constant_shape(node: ir.Node) -> list[int] | None:
    """Return the shape, with 0 for a size that keeps its dimension and -1 for another; None if there are two others."""
    source, target, asked = node.inputs[0], node.outputs[0], node.inputs[1]
    assert source is not None
    assert asked is not None
    if source.shape is None or target.shape is None or asked.const_value is not None:
        return None
    sizes = [_fixed_size(size, source.shape, index) for index, size in enumerate(target.shape)]
    return sizes if sizes.count(-1) <= 1 else None


def _fixed_size(size: int | ir.SymbolicDim, source: ir.Shape, index: int) -> int:
    if isinstance(size, int):
        return size
    stays = size.value is not None and index < len(source) and size == source[index]
    return 0 if stays else -1


def _normed(op: Any, x: Any, epsilon: Any, inner: Any, outer: Any) -> Any:
    wide = pattern.OrValue([op.Cast(x, to=inner), x])
    mean = op.ReduceMean(op.Pow(wide, 2.0), [-1], keepdims=1, noop_with_empty_axes=0)
    normed = op.Mul(wide, op.Reciprocal(op.Sqrt(op.Add(mean, epsilon))))
    return pattern.OrValue([op.Cast(normed, to=outer), normed])


def _norm(op: Any, x: Any, scale: Any, epsilon: Any, inner: Any, outer: Any) -> Any:
    return op.Mul(_normed(op, x, epsilon, inner, outer), scale)


def _norm_scale_first(op: Any, x: Any, scale: Any, epsilon: Any, inner: Any, outer: Any) -> Any:
    return op.Mul(scale, _normed(op, x, epsilon, inner, outer))


def _is_norm(_context: Any, x: ir.Value, scale: ir.Value, epsilon: ir.Value, **_: Any) -> bool:
    return _scalar(epsilon) is not None and scale.shape is not None and len(scale.shape) == 1


def _as_norm(op: Any, x: ir.Value, scale: ir.Value, epsilon: ir.Value, inner: Any, **_: Any) -> Any:
    precision = x.dtype if inner is None else ir.DataType(inner.as_int())
    assert precision is not None
    return op.RMSNormalization(x, scale, axis=-1, epsilon=_scalar(epsilon), stash_type=precision.value)


def _scalar(value: ir.Value) -> float | None:
    number = value.const_value
    return float(number.numpy().item()) if number is not None and number.size == 1 else None


def _double(op: Any, half: Any) -> Any:
    return op.Concat(half, half, axis=-1)


def _doubling(name: str) -> RewriteRule:
    """Return a rule that moves a pointwise operator in front of the doubling of its input.

    The angles of both halves of a head are equal, so transformers concatenates them with themselves.
    """

    def doubled(op: Any, half: Any) -> Any:
        inputs = {"_allow_other_inputs": True, "_allow_other_attributes": True, "_outputs": ["outside"]}
        return getattr(op, name)(_double(op, half), **inputs)

    def is_pointwise(_context: Any, outside: ir.Value, **_: Any) -> bool:
        node = outside.producer()
        assert node is not None
        return all(value is not None and _scalar(value) is not None for value in node.inputs[1:])

    def inside(op: Any, half: ir.Value, outside: ir.Value) -> Any:
        node = outside.producer()
        assert node is not None
        attributes = {key: attribute.value for key, attribute in node.attributes.items()}
        return _double(op, getattr(op, name)(half, *node.inputs[1:], **attributes))

    return RewriteRule(doubled, inside, is_pointwise, name=f"doubled {name}", remove_nodes=False)


def _rotation(op: Any, x: Any, cos: Any, sin: Any, middle: Any, start: Any, end: Any) -> Any:
    """Match Llama's form: x * cos + (-second half, first half) * sin, with doubled cosines and sines."""
    halves = op.Concat(op.Neg(op.Slice(x, middle, end, [3], [1])), op.Slice(x, [0], start, [3], [1]), axis=-1)
    rotated = op.Mul(halves, op.Unsqueeze(_double(op, sin), [1]))
    return op.Add(op.Mul(x, op.Unsqueeze(_double(op, cos), [1])), rotated)


def _is_rotation(_context: Any, x: ir.Value, middle: ir.Value, start: ir.Value, end: ir.Value, **_: Any) -> bool:
    size = x.shape[3] if x.shape is not None and len(x.shape) == 4 else None
    if not isinstance(size, int):
        return False
    last = _scalar(end)
    return _scalar(middle) == _scalar(start) == size // 2 and last is not None and last >= size


def _split_rotation(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Match the form of GPT-OSS, in which each half of a head is computed for itself."""
    first, second = op.Split(x, num_outputs=2, axis=3, _outputs=2)
    cos_B1TR, sin_B1TR = op.Unsqueeze(cos, [1]), op.Unsqueeze(sin, [1])
    rotated = op.Sub(op.Mul(first, cos_B1TR), op.Mul(second, sin_B1TR))
    return op.Concat(rotated, op.Add(op.Mul(second, cos_B1TR), op.Mul(first, sin_B1TR)), axis=-1)


def _as_rotation(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, **_: Any) -> Any:
    return op.RotaryEmbedding(x, cos, sin)


def _partial_rotation(op: Any, x: Any, cos: Any, sin: Any, end: Any, start: Any, last: Any) -> Any:
    """Match a rotation of the first R elements of a head, the rest of which is kept."""
    rotated = op.RotaryEmbedding(op.Slice(x, [0], end, [3], [1]), cos, sin)
    return op.Concat(rotated, op.Slice(x, start, last, [3], [1]), axis=-1)


def _is_partial(_context: Any, end: ir.Value, start: ir.Value, last: ir.Value, **_: Any) -> bool:
    return _scalar(end) is not None and _scalar(end) == _scalar(start) and _scalar(last) == float(END)


def _as_partial(op: Any, x: ir.Value, cos: ir.Value, sin: ir.Value, end: ir.Value, **_: Any) -> Any:
    rotated_size = _scalar(end)
    assert rotated_size is not None
    return op.RotaryEmbedding(x, cos, sin, rotary_embedding_dim=int(rotated_size))


def _rules(*rules: tuple[Callable[..., Any], Callable[..., Any], Callable[..., bool] | None]) -> RewriteRuleSet:
    # All layers share the cosines and sines, so a match does not remove them; unused nodes are removed at the end.
    made = [RewriteRule(found, made, check, remove_nodes=False) for found, made, check in rules]
    return RewriteRuleSet(made)


# Some of onnxscript's own rules. Its rule that joins slices is left out: it compares every slice with every other one,
# which takes long in a graph with many layers.
TIDYING = RewriteRuleSet(
    [
        *common.mul_by_1_rule.commute(),
        *common.add_0_rule.commute(),
        common.sub_0_rule,
        common.div_by_1_rule,
        common.cast_cast_rule,
        common.no_op_cast_rule,
        common.no_op_expand_rule,
        common.no_op_transpose_rule,
        common.transpose_transpose_rule,
        common.unsqueeze_unsqueeze_rule,
        common.collapse_slice_rule,
        common.collapse_slice2_rule,
        common.squeeze_reshape_1d_rule,
        common.reshape_reshape_rule,
        common.materialize_reshape_shape_rule,
    ]
)
NORMS = _rules((_norm, _as_norm, _is_norm), (_norm_scale_first, _as_norm, _is_norm))
DOUBLINGS = RewriteRuleSet([_doubling(name) for name in ("Cos", "Sin", "Mul", "Cast")])
ROTATIONS = _rules((_rotation, _as_rotation, _is_rotation), (_split_rotation, _as_rotation, None))
PARTIAL_ROTATIONS = _rules((_partial_rotation, _as_partial, _is_partial))
