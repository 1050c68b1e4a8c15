"""The weights of a checkpoint under the names and in the forms of transformers' model, read when they are needed.

transformers renames and joins what checkpoints of many origins hold; most mixtures have a tensor for each expert, of
which it makes one stack for each layer. Its own table of names and its own operations are used here, but on one
weight at a time, and on one expert at a time where experts are stacked, so that nothing larger is ever in memory.
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
from spectr_export.original.ondemand import LazyWeight
from spectr_runtime.errors import BundleError

# What a converter reads: tensors by the pattern that their names match.
Sources = Mapping[str, Sequence[torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Conversion:
    """How transformers makes weights of a checkpoint's tensors.

    Attributes:
        converter: Its entry of the table.
        name: The first weight that it makes.
        model: The model without its weights.
        sources: What they are made of.
    """

    converter: Any
    name: str
    model: Any
    sources: Sources

    def __call__(self, sources: Sources) -> dict[str, torch.Tensor]:
        """The weights, by name."""
        converter = copy.deepcopy(self.converter)
        converter.collected_tensors.update({pattern: list(tensors) for pattern, tensors in sources.items()})
        made = converter.convert(self.name, model=self.model, config=self.model.config)
        return {name: part[0] if isinstance(part, list) else part for name, part in made.items()}

    def without_data(self, entries: slice) -> dict[str, torch.Tensor]:
        """Types and shapes of what would be made of some of each pattern's tensors."""
        return self({name: [one.to("meta") for one in tensors[entries]] for name, tensors in self.sources.items()})

    def read(self, name: str, entries: slice) -> torch.Tensor:
        """One of the weights, made of some of each pattern's tensors."""
        return self({pattern: tensors[entries] for pattern, tensors in self.sources.items()})[name]


def read_checkpoint(folder: Path, model: Any) -> dict[str, LazyWeight]:
    """The weights of a checkpoint under transformers' names; of tied ones that are equal, one.

    Args:
        folder: The checkpoint, its files in safetensors.
        model: The causal LM on the meta device.

    Raises:
        BundleError: A mixture's experts are joined in a way in which they cannot be one by one.
    """
    weights: dict[str, LazyWeight] = {}
    for name, sources, converter in _grouped(_mapped(folder), model):
        if converter is None:
            ((tensor,),) = sources.values()
            weights[name] = LazyWeight.of(tensor)
        else:
            weights |= _converted(_Conversion(converter, name, model, sources))
    for name, other in model.all_tied_weights_keys.items():
        if {name, other} <= weights.keys() and torch.equal(weights[name].read(), weights[other].read()):
            del weights[name]
    return weights


def _mapped(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _grouped(tensors: Mapping[str, torch.Tensor], model: Any) -> Iterator[tuple[str, Sources, Any]]:
    """The first weight that each group of tensors becomes, the group, and what converts it if anything does.

    As ``transformers.core_model_loading.convert_and_load_state_dict_in_model`` collects them; what the model does not
    have is left out.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    prefix, own = model.base_model_prefix, model.state_dict()
    groups: dict[str, dict[str, list[torch.Tensor]]] = defaultdict(lambda: defaultdict(list))
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
    """Refuse a stack whose entries are not each made of their own tensors.

    The operations allowed work along dimensions. One that touched the first, along which entries are stacked, would
    not turn one entry's tensors into one entry.
    """
    from transformers.core_model_loading import Chunk, Concatenate, Interleave, MergeModulelist, Split, Transpose

    first, *others = conversion.converter.operations
    known = isinstance(first, MergeModulelist) and all(
        isinstance(operation, Chunk | Concatenate | Interleave | Split | Transpose) for operation in others
    )
    one = conversion.without_data(slice(1)) if known else {}
    alone = {name: (1, *tensor.shape[1:]) for name, tensor in made.items()}
    entries = {len(tensors) for tensors in conversion.sources.values()} | {len(tensor) for tensor in made.values()}
    if len(entries) != 1 or {name: tuple(tensor.shape) for name, tensor in one.items()} != alone:
        names = ", ".join(type(operation).__name__ for operation in conversion.converter.operations)
        raise BundleError(
            f"{conversion.name} is joined by {names}, which cannot be done one expert at a time.",
            hint="Load the checkpoint with transformers, and save it with save_original_format=False.",
        )
