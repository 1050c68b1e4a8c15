"""The sizes of a model of a bundle, and what binds a draft to its target where it is a head on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectr_runtime.bundle.checks import LARGEST, check_fields, check_mapping
from spectr_runtime.errors import BundleError

TYPES = ("float32", "float16", "bfloat16")
HEADS = ("eagle3",)


@dataclasses.dataclass(frozen=True, slots=True)
class Features:
    """The hidden states that a target gives out beside its logits, because its draft is a head that reads them.

    Attributes:
        layers: The layers whose inputs they are, in order; the number of all layers stands for what leaves the last.
        width: Numbers for each token, those of all of these layers.
    """

    layers: tuple[int, ...]
    width: int

    def __post_init__(self) -> None:
        check_fields(self)
        check_mapping("features", {"layers": self.layers}, tuple)
        if not self.layers or not all(type(layer) is int and 0 <= layer <= LARGEST for layer in self.layers):
            raise BundleError(f"The layers of features are {self.layers!r}; they must be one or more layers.")


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """What a draft is fed beside tokens that is not a model of its own, but a head on its target.

    Attributes:
        kind: ``eagle3`` (Li et al. 2025, arXiv 2503.01840).
        features: Width of the target's features.
        hidden: Width of the hidden state that it gives out for every token, and is fed for the token after it.
    """

    kind: str
    features: int
    hidden: int

    def __post_init__(self) -> None:
        check_fields(self)
        if self.kind not in HEADS:
            raise BundleError(f"A head is of kind {self.kind!r}; it must be one of {', '.join(HEADS)}.")


@dataclasses.dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the runtime must know of a model before it opens it.

    Attributes:
        architecture: The ``model_type`` of the transformers configuration.
        layers: Number of layers that keep keys and values.
        kv_heads: Number of key/value heads of a layer.
        head_size: Size of one head.
        vocabulary: Width of the logits.
        max_positions: Longest text in tokens that the model was made for.
        dtype: Type of weights and cache: ``float32``, ``float16`` or ``bfloat16``.
        quantisation: Type in which the matrices of the layers are stored: ``int8``, ``int4``, ``fp8``, or ``none`` for
            ``dtype``; ``kept`` and the types of its codes, as in ``kept int4, int8``, for a quantised checkpoint that
            stays in its own blocks.
        features: Of a target, what its draft reads of it; None if that is a model of its own, or there is none.
        head: Of a draft that is a head, what it is fed; None for a model of its own.
    """

    architecture: str
    layers: int
    kv_heads: int
    head_size: int
    vocabulary: int
    max_positions: int
    dtype: str = "float32"
    quantisation: str = "none"
    features: Features | None = None
    head: Head | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.dtype not in TYPES:
            raise BundleError(f"A model's dtype is {self.dtype!r}; it must be one of {', '.join(TYPES)}.")

    @property
    def states(self) -> int:
        """Width of the hidden states that the model gives out for every fed token; 0 if it gives out logits alone."""
        if self.head is not None:
            return self.head.hidden
        return 0 if self.features is None else self.features.width

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as JSON values; what a model has nothing of is left out."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> ModelSpec:
        """Read what ``to_json`` returned.

        Raises:
            BundleError: A size is malformed.
            AttributeError, KeyError, TypeError: A field is missing, unknown or of another type.
        """
        features, head = value.get("features"), value.get("head")
        read = {
            "features": None if features is None else Features(tuple(features["layers"]), features["width"]),
            "head": None if head is None else Head(**head),
        }
        return ModelSpec(**{**value, **read})
