"""Gives the weights of a checkpoint the names and shapes that transformers' model has, each when it is read.

transformers renames and joins the tensors of checkpoints of many origins. Most mixtures, for instance, have a tensor
for each expert, and transformers makes one stack for each layer of them. This module uses transformers' own table of
names and its own operations, but on one weight at a time, and on one expert at a time where experts are stacked, so
that nothing larger is ever in memory.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.checkpoint import weight_files
from spectr_export.original.formats.blocks import QuantisedMatrix
from spectr_export.original.formats.gguf import is_gguf, read_weights
from spectr_export.original.formats.scheme import quantisation_settings, unpack_tensors
from spectr_export.original.ondemand import LazyWeight
from spectr_runtime.errors import BundleError

# The weights that a converter reads, by the pattern that their names match.
Sources = Mapping[str, Sequence[torch.Tensor | QuantisedMatrix]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Conversion:
    """One conversion of transformers, which makes weights of a checkpoint's tensors.

    Attributes:
        converter: The converter in transformers' table.
        name: The first weight that the conversion makes.
        model: The model without its weights.
        sources: The tensors from which the weights are made.
    """

    converter: Any
    name: str
    model: Any
    sources: Sources

    def __call__(self, sources: Mapping[str, Sequence[torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Return the weights that are made of the tensors, by name."""
        converter = copy.deepcopy(self.converter)
        converter.collected_tensors.update({pattern: list(tensors) for pattern, tensors in sources.items()})
        made = converter.convert(self.name, model=self.model, config=self.model.config)
        return {name: part[0] if isinstance(part, list) else part for name, part in made.items()}

    def without_data(self, entries: slice) -> dict[str, torch.Tensor]:
        """Return, on the meta device, the weights that would be made of some of each pattern's tensors."""
        sources = self.sources.items()
        return self({pattern: [tensor.to("meta") for tensor in tensors[entries]] for pattern, tensors in sources})

    def read(self, name: str, entries: slice) -> torch.Tensor:
        """Return one of the weights, made of some of each pattern's tensors."""
        sources = self.sources.items()
        return self({pattern: [_read(tensor) for tensor in tensors[entries]] for pattern, tensors in sources})[name]


def read_checkpoint(folder: Path, model: Any) -> dict[str, LazyWeight]:
    """Return the weights of a checkpoint by transformers' names; of tied weights that are equal, only one.

    Args:
        folder: The checkpoint, its files in safetensors or unpacked from a GGUF file.
        model: The causal LM on the meta device.

    Raises:
        BundleError: The experts of a mixture are joined in a way that cannot be done one expert at a time, or the
            weights are quantised in a way that is not read.
        EngineError: The package that reads a quantised format is not installed.
    """
    if is_gguf(folder):
        return read_weights(folder, model)
    weights: dict[str, LazyWeight] = {}
    tensors = unpack_tensors(_mapped(folder), quantisation_settings(folder), model)
    for name, sources, converter in _grouped(tensors, model):
        if converter is None:
            ((tensor,),) = sources.values()
            weights[name] = LazyWeight.of(tensor)
        else:
            weights |= _converted(_Conversion(converter, name, model, sources))
    for name, other in model.all_tied_weights_keys.items():
        if {name, other} <= weights.keys() and torch.equal(weights[name].read(), weights[other].read()):
            del weights[name]
    return weights


def _read(tensor: torch.Tensor | QuantisedMatrix) -> torch.Tensor:
    return tensor.read() if isinstance(tensor, QuantisedMatrix) else tensor


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _grouped(tensors: Mapping[str, torch.Tensor | QuantisedMatrix], model: Any) -> Iterator[tuple[str, Sources, Any]]:
    """Yield the tensors in groups: the first weight that a group becomes, the group, and its converter or None.

    The grouping is that of ``transformers.core_model_loading.convert_and_load_state_dict_in_model``. Tensors that the
    model does not have are left out.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix, own = model.base_model_prefix, model.state_dict()
    groups: dict[str, dict[str, list[torch.Tensor | QuantisedMatrix]]] = defaultdict(lambda: defaultdict(list))
    for key in sorted(tensors, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, pattern = key, None
        if name in own:
            groups[name][pattern or ""].append(tensors[key])
    for name, sources in groups.items():
        yield name, sources, by_pattern.get(next(iter(sources)))


def _converted(conversion: _Conversion) -> dict[str, LazyWeight]:
    from transformers.core_model_loading import MergeModulelist

    whole = slice(None)
    made = conversion.without_data(whole)
    if any(isinstance(operation, MergeModulelist) for operation in conversion.converter.operations):
        _refuse_inseparable(conversion, made)
        parts = [slice(number, number + 1) for number in range(len(made[conversion.name]))]
    else:
        parts = [whole]
    return {
        name: LazyWeight(tensor.dtype, tuple(tensor.shape), _readers(conversion, name, parts))
        for name, tensor in made.items()
    }


def _readers(conversion: _Conversion, name: str, parts: Sequence[slice]) -> list[Callable[[], torch.Tensor]]:
    return [functools.partial(conversion.read, name, part) for part in parts]


def _refuse_inseparable(conversion: _Conversion, made: Mapping[str, torch.Tensor]) -> None:
    """Refuse a stack whose entries cannot be made one by one, each of its own tensors.

    The operations that are allowed work along one dimension. If an operation works along the first dimension, along
    which the entries are stacked, the tensors of one entry alone do not give an entry, which the shapes show.
    """
    from transformers.core_model_loading import Chunk, Concatenate, Interleave, MergeModulelist, Split, Transpose

    first, *others = conversion.converter.operations
    known = isinstance(first, MergeModulelist) and all(
        isinstance(operation, Chunk | Concatenate | Interleave | Split | Transpose) for operation in others
    )
    first_entry = conversion.without_data(slice(1)) if known else {}
    expected = {name: (1, *tensor.shape[1:]) for name, tensor in made.items()}
    entries = {len(tensors) for tensors in conversion.sources.values()} | {len(tensor) for tensor in made.values()}
    if len(entries) != 1 or {name: tuple(tensor.shape) for name, tensor in first_entry.items()} != expected:
        names = ", ".join(type(operation).__name__ for operation in conversion.converter.operations)
        raise BundleError(
            f"{conversion.name} is joined by {names}, which cannot be done one expert at a time.",
            hint="Load the checkpoint with transformers, and save it with save_original_format=False.",
        )
