"""A double of TensorRT's Python module, made of the signatures of a release: what they do not have, it has not."""

from __future__ import annotations

import enum
import inspect
import json
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

from tensorrt_signatures import RECORD

SIGNATURES: Mapping[str, Mapping[str, Any]] = json.loads(RECORD.read_text(encoding="utf-8"))
RELEASES = tuple(SIGNATURES)
# Python's types by the names that signatures have for them.
TYPES: Mapping[str, Any] = {
    "int": int, "str": (str, type(None)), "bool": bool, "tuple": tuple, "list": list, "Dims": (tuple, list),
    "Buffer": (bytes, bytearray, memoryview),
}  # fmt: skip
Behaviour = Callable[..., Any]


class Called(NamedTuple):
    """A call of a method, or a value that was set: its name, its receiver and its arguments."""

    name: str
    receiver: Any
    arguments: Mapping[str, Any]


class Double(SimpleNamespace):
    """The module.

    Methods take what a signature of theirs takes and raise TypeError as TensorRT's own do. They return what the
    behaviour of their name returns for the receiver and the arguments, or else something of the type that they should.

    Args:
        release: A recorded release.
        behaviours: What methods and properties do, by their full name.
    """

    def __init__(self, release: str, behaviours: Mapping[str, Behaviour]) -> None:
        super().__init__(__version__=release, calls=[])
        self._behaviours = behaviours
        members: dict[str, dict[str, Any]] = {}
        for full, signature in SIGNATURES[release].items():
            owner, _, name = full.rpartition(".")
            members.setdefault(owner, {})[name] = signature
        for owner, signatures in members.items():
            outer, _, name = owner.rpartition(".")
            setattr(getattr(self, outer) if outer else self, name, self._make(owner, name, signatures))

    def arguments(self, name: str) -> list[tuple[Any, ...]]:
        """What a method was called with, or a property set to, each time."""
        return [tuple(call.arguments.values()) for call in self.calls if call.name == name]

    def new(self, kind: str) -> Any:
        """An object of a class, or something of one of Python's types."""
        if kind in TYPES or kind == "None":
            return {"bool": True, "int": 0, "str": ""}.get(kind)
        made = getattr(self, kind)
        return object.__new__(made) if not issubclass(made, enum.Enum) else next(iter(made))

    def _make(self, owner: str, name: str, signatures: Mapping[str, Any]) -> Any:
        if all(isinstance(signature, int) for signature in signatures.values()):
            return enum.IntEnum(name, dict(signatures))
        members = {member: self._member(f"{owner}.{member}", said) for member, said in signatures.items()}
        return type(name, (), {"__slots__": (), **members})

    def _member(self, full: str, signature: Any) -> Any:
        if isinstance(signature, list):
            return self._method(full, signature)

        def get(receiver: Any) -> Any:
            behaviour = self._behaviours.get(full)
            return behaviour(receiver) if behaviour else self.new(signature["type"])

        def put(receiver: Any, value: Any) -> None:
            self._check(full, signature["type"], value)
            self.calls.append(Called(full, receiver, {"value": value}))

        return property(get, put if signature["settable"] else None)

    def _method(self, full: str, overloads: list[str]) -> Behaviour:
        def method(receiver: Any, *values: Any, **named: Any) -> Any:
            arguments, result = self._choose(full, overloads, values, named)
            self.calls.append(Called(full, receiver, arguments))
            behaviour = self._behaviours.get(full)
            return behaviour(receiver, **arguments) if behaviour else self.new(result)

        return method

    def _choose(self, full: str, overloads: list[str], values: Any, named: Any) -> tuple[dict[str, Any], str]:
        """The arguments by the names that the first overload that takes them has, and the type of its result."""
        reasons = []
        for overload in overloads:
            parameters, _, result = overload.rpartition(") -> ")
            try:
                bound = _signature(parameters[1:]).bind(*values, **named)
                for name, value in bound.arguments.items():
                    self._check(f"{full} {name}", bound.signature.parameters[name].annotation, value)
            except TypeError as error:
                reasons.append(str(error))
            else:
                return dict(bound.arguments), result
        raise TypeError(f"{full}: {'; '.join(reasons)}")

    def _check(self, what: str, kind: str, value: Any) -> None:
        outer, _, inner = kind.rpartition(".")
        wanted = TYPES.get(kind) or getattr(getattr(self, outer) if outer else self, inner, ())
        if not isinstance(value, wanted):
            raise TypeError(f"{what} must be {kind}; got {value!r}")


def _signature(parameters: str) -> inspect.Signature:
    """``a: A, b: B = c`` as Python has it; what a default is does not matter."""
    split = [parameter.partition(": ") for parameter in parameters.split(", ") if parameter]
    return inspect.Signature(
        [
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                annotation=said.partition(" = ")[0],
                default=... if " = " in said else inspect.Parameter.empty,
            )
            for name, _, said in split
        ]
    )
