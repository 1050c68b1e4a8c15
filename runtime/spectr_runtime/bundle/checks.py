"""Checks of records that were read from JSON, which may hold values of any type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from spectr_runtime.errors import BundleError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

KINDS = {"str": str, "int": int, "bool": bool}
LARGEST = 2**31 - 1


def check_fields(record: DataclassInstance) -> None:
    """Check that a record's fields have the types that its class declares, as far as these are str, int and bool.

    All numbers in these records are sizes and counts, so they must be from 1 to 2,147,483,647.

    Raises:
        BundleError: A field has another type, or a number is out of range.
    """
    for field in dataclasses.fields(record):
        kind, value = KINDS.get(str(field.type)), getattr(record, field.name)
        if kind is None:
            continue
        if type(value) is not kind or (isinstance(value, int) and kind is int and not 1 <= value <= LARGEST):
            allowed = f"a whole number from 1 to {LARGEST}" if kind is int else f"a {kind.__name__}"
            raise BundleError(f"{type(record).__name__}.{field.name} is {value!r}; it must be {allowed}.")


def check_mapping(name: str, value: object, kinds: type | tuple[type, ...]) -> None:
    """Check that a value is a mapping from texts to values of some types.

    Args:
        name: Name of the value, for the message.
        value: The value.
        kinds: The types that its entries may have.

    Raises:
        BundleError: The value is not such a mapping.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise BundleError(f"{name} is {value!r:.80}; it must be an object.")
    wrong = [key for key, entry in value.items() if not isinstance(entry, kinds)]
    if wrong:
        raise BundleError(f"{name}.{wrong[0]} is {value[wrong[0]]!r:.80}, which is of a wrong type.")
