"""Which matrices of a quantised checkpoint stay in their blocks, and in which form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from spectr_export.original.formats.blocks import Form
from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.precision import KEPT

NAMED = 3  # as many matrices are named in a line


def kept_forms(model: Any, weights: Mapping[str, LazyWeight]) -> dict[str, Form]:
    """Return the forms of the matrices of linear layers that have blocks in a checkpoint.

    An output layer that shares its matrix with the embedding is not among them, because rows of it are looked up.

    Args:
        model: The causal LM, which may be on the meta device.
        weights: Its weights.
    """
    embedding = model.get_input_embeddings().weight
    layers = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module.weight is not embedding
    }
    found = {name: weight.quantised.form for name, weight in weights.items() if weight.quantised and name in layers}
    return {name: form for name, form in found.items() if form}


def kept_quantisation(forms: Mapping[str, Form]) -> str:
    """Return the quantisation of a model that keeps matrices in these forms, such as ``kept int4, int8``."""
    return f"{KEPT} {', '.join(sorted({form.code for form in forms.values()}))}" if forms else "none"


def describe_kept(forms: Mapping[str, Form], weights: Mapping[str, LazyWeight], dtype: str) -> list[str]:
    """Return lines on what a quantised checkpoint keeps, and on what it is widened to; none for other checkpoints.

    Args:
        forms: The forms of the matrices that are kept.
        weights: The checkpoint's weights.
        dtype: The type of all other weights.
    """
    counts = sorted(Counter(map(str, forms.values())).items(), key=lambda pair: (-pair[1], pair[0]))
    lines = []
    if counts:
        lines.append(f"matrices kept as they come: {', '.join(f'{count} {form}' for form, count in counts)}")
    wide = [name for name, weight in weights.items() if weight.quantised and name not in forms]
    if wide:
        more = f" and {len(wide) - NAMED} more" if len(wide) > NAMED else ""
        lines.append(f"quantised in the checkpoint and widened to {dtype}: {', '.join(wide[:NAMED])}{more}")
    return lines
