"""Adds the layers that were not traced to a graph: copies of traced layers with other weights and another cache."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from onnxscript import ir

from spectr_export.graph.kinds import Pattern

# The metadata in which the exporter notes the modules that a node belongs to.
SCOPES = "pkg.torch.onnx.name_scopes"


@dataclasses.dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the graph.

    Attributes:
        index: Its number, from 0 on.
        nodes: Its nodes in order, without constants, which layers share.
    """

    index: int
    nodes: Sequence[ir.Node]

    @property
    def output(self) -> ir.Value:
        """The value that the next layer reads, which is the last one that the layer computes."""
        return self.nodes[-1].outputs[0]


def repeat_layers(graph: ir.Graph, pattern: Pattern) -> bool:
    """Add the layers that were not traced.

    Args:
        graph: The graph of the traced layers, not simplified; changed in place.
        pattern: Which layers were traced, and which of them to copy for the others.

    Returns:
        Whether the layers were added. If the nodes of the layers cannot be found, or the twins differ in more than
        weights and caches, the graph is not changed.
    """
    if not pattern.templates:
        return True
    layers = _find_layers(graph, pattern)
    one, other = pattern.twins
    if not all(layer.nodes for layer in layers):
        return False
    if not _are_twins(graph, layers[one - 1 : one + 1], layers[other - 1 : other + 1], pattern.path):
        return False
    last = layers[-1]
    readers = [use for use in last.output.uses() if use.node not in last.nodes]
    for template in pattern.templates:
        last = _repeat(graph, layers[template - 1 : template + 1], last, pattern.path)
    for reader, index in readers:
        reader.replace_input_with(index, last.output)
    return True


def _find_layers(graph: ir.Graph, pattern: Pattern) -> list[_Layer]:
    scope = re.compile(rf"'{re.escape(pattern.path)}\.(\d+)'")
    nodes: list[list[ir.Node]] = [[] for _ in range(pattern.traced)]
    for node in graph:
        found = scope.search(node.metadata_props.get(SCOPES, ""))
        if found and node.op_type != "Constant":
            nodes[int(found[1])].append(node)
    return [_Layer(index, own) for index, own in enumerate(nodes)]


def _are_twins(graph: ir.Graph, one: Sequence[_Layer], other: Sequence[_Layer], path: str) -> bool:
    """Return whether a copy of one layer would be the other layer; each is given after the layer in front of it."""
    (before, first), (other_before, second) = one, other
    own = _own_values(graph)
    counterparts = {before.output: other_before.output}
    counterparts |= {own[name]: own[new] for name, new in _renamed(own, first.index, second.index, path).items()}
    for node, twin in zip(first.nodes, second.nodes, strict=False):
        inputs = [counterparts.get(value, value) if value is not None else None for value in node.inputs]
        if _description(node) != _description(twin) or list(map(_content, inputs)) != list(map(_content, twin.inputs)):
            return False
        counterparts |= zip(node.outputs, twin.outputs, strict=True)
    return len(first.nodes) == len(second.nodes)


def _repeat(graph: ir.Graph, template: Sequence[_Layer], last: _Layer, path: str) -> _Layer:
    """Copy a layer, given after the layer in front of it, to the end of the layers, and return the copy."""
    (before, layer), index = template, last.index + 1
    own = _own_values(graph)
    counterparts = {before.output: last.output}
    for name, new in _renamed(own, layer.index, index, path).items():
        value = counterparts[own[name]] = _copied(own[name], new)
        if own[name].is_initializer():
            graph.register_initializer(value)
        else:
            graph.inputs.append(value)
    nodes = []
    for node in layer.nodes:
        inputs = [counterparts.get(value, value) if value is not None else None for value in node.inputs]
        outputs = [_copied(value, None) for value in node.outputs]
        nodes.append(ir.Node(node.domain, node.op_type, inputs, node.attributes, outputs=outputs, version=node.version))
        counterparts |= zip(node.outputs, outputs, strict=True)
    graph.insert_after(last.nodes[-1], nodes)
    for value in [value for value in graph.outputs if value in counterparts]:
        counterparts[value].name = str(value.name).replace(f".{layer.index}.", f".{index}.")
        graph.outputs.append(counterparts[value])
    return _Layer(index, nodes)


def _own_values(graph: ir.Graph) -> dict[str, ir.Value]:
    return {**graph.initializers, **{str(value.name): value for value in graph.inputs}}


def _renamed(names: Iterable[str], index: int, new: int, path: str) -> dict[str, str]:
    """Map the names of the weights and the cache of layer ``index`` to those that they have in layer ``new``."""
    pairs = [(f"{begin}.{index}.", f"{begin}.{new}.") for begin in (path, "past_key_values")]
    return {name: then + name.removeprefix(now) for now, then in pairs for name in names if name.startswith(now)}


def _copied(value: ir.Value, name: str | None) -> ir.Value:
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)


def _description(node: ir.Node) -> tuple[Any, ...]:
    attributes = {name: _plain(attribute.value) for name, attribute in node.attributes.items()}
    return node.domain, node.op_type, len(node.outputs), attributes


def _content(value: ir.Value | None) -> Any:
    """Return a value, or the numbers of a constant, so that equal constants compare equal."""
    node = value.producer() if value is not None else None
    return _description(node) if node is not None and node.op_type == "Constant" else value


def _plain(value: Any) -> Any:
    return (value.dtype, value.numpy().tolist()) if isinstance(value, ir.TensorProtocol) else value
