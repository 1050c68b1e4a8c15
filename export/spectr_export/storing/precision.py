"""The precision of a stored model: the type of its numbers, and the quantisation of its matrices."""

from __future__ import annotations

import dataclasses

from spectr_runtime.bundle.spec import TYPES
from spectr_runtime.errors import UsageError

QUANTISATIONS = ("none", "int8", "int4", "int4-asymmetric", "fp8")
# What the quantisation of a checkpoint that keeps its own begins with, before the types of its codes: ``kept int4``.
KEPT = "kept"


@dataclasses.dataclass(frozen=True, slots=True)
class Precision:
    """How a model is stored; printed, for instance, as ``int8 weights and float32``.

    Attributes:
        dtype: Type of the weights and of the cache: ``float32``, ``float16`` or ``bfloat16``.
        quantisation: How the matrices of the model's layers are stored: ``none`` (in ``dtype``), ``int8``, ``int4``,
            ``int4-asymmetric``, whose blocks have minima too, or ``fp8``. In int8 and fp8 the inputs of the layers are
            rounded as well. ``kept`` leaves those of a quantised checkpoint in their blocks, and is followed by the
            types of their codes once they are known.
    """

    dtype: str = "float32"
    quantisation: str = "none"

    def __post_init__(self) -> None:
        kind = KEPT if self.keeps else self.quantisation
        for name, found, allowed in (("dtype", self.dtype, TYPES), ("quantisation", kind, (*QUANTISATIONS, KEPT))):
            if found not in allowed:
                raise UsageError(f"A {name} of {found!r} is not known; it must be {', '.join(allowed)}.")

    @property
    def keeps(self) -> bool:
        """Whether a quantised checkpoint stays in its own blocks."""
        return self.quantisation.split()[0] == KEPT

    def __str__(self) -> str:
        if self.quantisation == "none":
            return self.dtype
        return f"{self.quantisation} {'products' if self.quantisation == 'fp8' else 'weights'} and {self.dtype}"


FLOAT32 = Precision()
