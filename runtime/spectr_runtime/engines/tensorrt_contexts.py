"""The execution contexts of a TensorRT engine: each for calls of the same sizes, those of CUDA graphs left alone."""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted.
from __future__ import annotations

import collections
from collections.abc import Callable, Mapping
from typing import Any

import torch

from spectr_runtime.contract import Call, KVCache, Output, past_names, present_names
from spectr_runtime.engines.buffers import named
from spectr_runtime.errors import EngineError

Sizes = tuple[int, ...]  # B, T, L and M of a call


class Context:
    """An execution context, and what it was told.

    The cache inputs and outputs of a layer are bound to the same address, that of the call's rows in the cache, so
    that TensorRT writes the new keys and values into it.

    Args:
        made: The context of TensorRT, which has its profile and memory to compute in.
        cache: The cache of the engine.
        layers: Number of layers of the model.
    """

    def __init__(self, made: Any, cache: KVCache, layers: int) -> None:
        self._made = made
        self._cache = cache
        self._past, self._present = past_names(layers), present_names(layers)
        self._place: tuple[int, int] | None = None  # the cache's generation, and the first row

    def set_shapes(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Set the shapes of all calls that follow to those of a call's inputs."""
        for name, tensor in inputs.items():
            self._made.set_input_shape(name, tuple(tensor.shape))
        for name, part in zip(self._past, self._cache.parts(0, len(inputs["input_ids"])), strict=True):
            self._made.set_input_shape(name, tuple(part.shape))

    def bind(self, call: Call, inputs: Mapping[str, torch.Tensor], output: Output) -> None:
        """Set the addresses of a call, those in the cache only if they are not those of the call before."""
        place = self._cache.generation, call.first_row
        if place != self._place:
            parts = self._cache.parts(call.first_row, len(call.input_ids_BT))
            for past, present, part in zip(self._past, self._present, parts, strict=True):
                self._made.set_tensor_address(past, part.data_ptr())
                self._made.set_tensor_address(present, part.data_ptr())
            self._place = place
        for name, tensor in (*inputs.items(), *named(output).items()):
            self._made.set_tensor_address(name, tensor.data_ptr())

    def enqueue(self, stream: int) -> bool:
        """Run on a stream, and return whether TensorRT did not refuse to."""
        return bool(self._made.execute_async_v3(stream))


class Recorded:
    """A context that is part of CUDA graphs, with memory of its own for inputs and output. Nothing of it may change.

    A graph is replayed with the addresses that it was recorded with, and relies on the state that the context had.

    Args:
        context: A context that ran a call of these shapes before, which did what cannot be recorded.
        call: The call that is recorded.
        inputs: Its inputs.
        output: Memory for its output.
    """

    def __init__(self, context: Context, call: Call, inputs: Mapping[str, torch.Tensor], output: Output) -> None:
        with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
            self._inputs = {name: torch.empty_like(tensor) for name, tensor in inputs.items()}
        self._context = context
        self._output = output
        context.bind(call, self._inputs, output)

    def enqueue(self, inputs: Mapping[str, torch.Tensor], stream: int) -> Output | None:
        """Record a call with these inputs on a stream, and return its output; None if TensorRT refuses to."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        return self._output if self._context.enqueue(stream) else None


class Contexts:
    """The contexts of an engine.

    Outside of graphs a context serves calls of the same sizes, so that a call sets no more than a few addresses. Of
    each profile the latest ones are kept; for a call of other sizes the one that was idle for longest gets new shapes.
    A context that a graph has recorded is kept beside them until the cache moves, and used again only by calls that are
    recorded too. Graphs may share it, since nothing of it changes.

    Args:
        cache: The cache of the engine.
        layers: Number of layers of the model.
        most: How many contexts of a profile are kept.
    """

    def __init__(self, cache: KVCache, layers: int, most: int) -> None:
        self._cache = cache
        self._layers = layers
        self._most = most
        self._kept: dict[int, dict[Sizes, Context]] = collections.defaultdict(dict)
        self._recorded: dict[tuple[Sizes, int, int], Recorded] = {}  # with first row and generation of the cache
        self._generation = cache.generation

    def take(
        self, profile: int, sizes: Sizes, inputs: Mapping[str, torch.Tensor], make: Callable[[int], Any]
    ) -> Context:
        """Return a context for a call, which is not kept until it is given back.

        Args:
            profile: Index of the profile.
            sizes: B, T, L and M of the call.
            inputs: Inputs of these sizes.
            make: Makes a context of TensorRT for the profile of an index.
        """
        if self._generation != self._cache.generation:  # graphs of the cache as it was cannot be replayed
            self._generation = self._cache.generation
            self._recorded.clear()
        kept = self._kept[profile]
        if sizes in kept:
            return kept.pop(sizes)
        if len(kept) == self._most:
            context = kept.pop(next(iter(kept)))
        else:
            context = Context(make(profile), self._cache, self._layers)
        context.set_shapes(inputs)
        return context

    def give_back(self, profile: int, sizes: Sizes, context: Context) -> None:
        """Keep a context for the next call of the sizes that it has run."""
        self._kept[profile][sizes] = context

    def record(
        self, profile: int, sizes: Sizes, call: Call, inputs: Mapping[str, torch.Tensor], output: Output
    ) -> Recorded:
        """Return the context of all recorded calls of these sizes and rows: the one that ran the sizes before.

        Args:
            profile: Index of the profile.
            sizes: B, T, L and M of the call.
            call: The call.
            inputs: Its inputs.
            output: Memory for its output.

        Raises:
            EngineError: No call of these sizes ran before.
        """
        key = sizes, call.first_row, self._cache.generation
        if key not in self._recorded:
            context = self._kept[profile].pop(sizes, None)
            if context is None:
                raise EngineError(
                    f"A call of B, T, L, M = {sizes} cannot be recorded, for TensorRT has not run one of these sizes.",
                    hint="Run the call once before it is recorded.",
                )
            self._recorded[key] = Recorded(context, call, inputs, output)
        return self._recorded[key]
