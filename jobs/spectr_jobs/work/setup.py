"""The setup of a session: how rows are decoded.

But for the shape of calls it may differ between the sessions of a run; the manifest may not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from spectr_runtime.backends import Backend
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice

FITTED: Final = "auto"  # instead of a number of rows: what each process chooses when it starts
BatchChoice = int | Literal["auto"]


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """How a session decodes.

    Attributes:
        plan: A fixed plan, or ``auto``.
        batch_size: Rows decoded together; ``auto`` until the process has chosen.
        backend: Name of the library that runs the models.
        device: Device of the models, as torch names it.
        longest: How many tokens texts have at most, as far as the process knows; its compiled engines are opened for
            these.
        corpus: A file of texts to draft from, beside the rows that were finished before; None for no file.
        call_tokens: If it is not None, all calls have one shape, and rounds feed the target so many tokens a row; see
            ``Decoder``. It must not differ between the sessions of a run, nor must the batch size then.
    """

    plan: PlanChoice
    batch_size: BatchChoice
    backend: Backend
    device: str
    longest: int = 1
    corpus: Path | None = None
    call_tokens: int | None = None

    def __str__(self) -> str:
        batch = f"batch {self.batch_size}" if self.call_shape is None else f"call shape {self.call_shape}"
        return f"{self.plan}, {batch}, {self.backend} on {self.device}"

    @property
    def call_shape(self) -> str | None:
        """The one shape of all calls as ``--call-shape`` takes it; None if calls differ."""
        return None if self.call_tokens is None else f"{self.batch_size}x{self.call_tokens}"

    @property
    def rows(self) -> int:
        """Rows decoded together, once they are chosen."""
        assert self.batch_size != FITTED
        return self.batch_size

    def to_json(self) -> dict[str, Any]:
        """Return the setup as JSON values.

        ``plan`` and ``corpus`` are for people: ``from_json`` reads the fields of a fixed plan, and no row depends on
        the corpus, which may be gone.
        """
        return {
            "plan": str(self.plan),
            **({} if self.plan == AUTO else dataclasses.asdict(self.plan)),
            "batch_size": self.batch_size,
            "backend": self.backend,
            "device": self.device,
            **({} if self.corpus is None else {"corpus": str(self.corpus)}),
            **({} if self.call_tokens is None else {"call_tokens": self.call_tokens}),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Setup:
        """Return the setup that ``to_json`` turned into JSON values."""
        fields = {name: value[name] for name in ("rule", "drafts", "length", "source") if name in value}
        plan: PlanChoice = AUTO if value["plan"] == AUTO else Plan(**fields)
        tokens = value.get("call_tokens")
        return Setup(plan, value["batch_size"], value["backend"], value["device"], call_tokens=tokens)
