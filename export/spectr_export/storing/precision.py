"""The precision of a stored model: the type of its numbers, and the quantisation of its matrices."""

from __future__ import annotations

import dataclasses

from spectr_runtime.bundle.manifest import TYPES
from spectr_runtime.errors import UsageError

QUANTISATIONS = ("none", "int8", "int4", "fp8")


@dataclasses.dataclass(frozen=True, slots=True)
class Precision:
    """How a model is stored; printed, for instance, as ``int8 weights and float32``.

    Attributes:
        dtype: Type of the weights and of the cache: ``float32``, ``float16`` or ``bfloat16``.
        quantisation: How the matrices of the model's layers are stored: ``none`` (in ``dtype``), ``int8``, ``int4``,
            or ``fp8``, in which the inputs of the layers are rounded to fp8 as well.
    """

    dtype: str = "float32"
    quantisation: str = "none"

    def __post_init__(self) -> None:
        for name, allowed in (("dtype", TYPES), ("quantisation", QUANTISATIONS)):
            if getattr(self, name) not in allowed:
                raise UsageError(f"A {name} of {getattr(self, name)!r} is not known; it must be {', '.join(allowed)}.")

    def __str__(self) -> str:
        if self.quantisation == "none":
            return self.dtype
        return f"{self.quantisation} {'products' if self.quantisation == 'fp8' else 'weights'} and {self.dtype}"


FLOAT32 = Precision()
