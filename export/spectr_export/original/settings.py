"""Reads the JSON files of a checkpoint, each of which holds one object."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectr_runtime.errors import BundleError

CORRECT = "Correct the file, or get it again."
BYTE_ORDER_MARK = "\ufeff"
KINDS = {list: "a list", str: "a text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}


def read_settings(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file of a checkpoint holds.

    A byte-order mark is refused too, although its meaning is clear: transformers reads no file that begins with one.
    It refuses some, and takes a ``generation_config.json`` for missing.

    Raises:
        BundleError: The file does not hold a JSON object.
    """
    try:
        text = path.read_bytes().decode("utf-8")
        if text.startswith(BYTE_ORDER_MARK):
            raise BundleError(
                f"{path} begins with a byte-order mark, which JSON does not allow.",
                hint="Save it as UTF-8 without a byte-order mark.",
            )
        value = json.loads(text)
    except UnicodeDecodeError as error:
        raise BundleError(f"{path} is not UTF-8: {error}.", hint=CORRECT) from error
    except RecursionError as error:
        raise BundleError(f"{path} is nested too deeply for a JSON file of a checkpoint.", hint=CORRECT) from error
    except ValueError as error:
        raise BundleError(f"{path} is not JSON: {error}.", hint=CORRECT) from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds {KINDS[type(value)]}; it must hold a JSON object, {{...}}.", hint=CORRECT)
    return value
