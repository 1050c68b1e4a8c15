"""Checks that the files of a checkpoint are sound, before a library relies on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectr_runtime.bundle.checks import LARGEST
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.errors import BundleError

INDEX = f"{WEIGHTS}.index.json"
AGAIN = "Get the checkpoint again."
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def check_weights(folder: Path) -> None:
    """Check every file of weights against its header, and that an index names only files beside it.

    Raises:
        BundleError: A file is not sound; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    whole = (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file()
    for path in sorted(folder.glob("*.safetensors")) if whole else weight_files(folder):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path} is no sound safetensors file: {error}.", hint=AGAIN) from error


def check_sizes(config: Any, path: Path) -> None:
    """Check the sizes in a configuration from which a model is built.

    Raises:
        BundleError: A size is not positive, or larger than in any model.
    """
    for name in SIZES:
        value = getattr(config, name, 1)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise BundleError(
                f"{path} gives {name} as {value!r:.80}; it must be a whole number from 1 to {LARGEST}.", hint=AGAIN
            )


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a checkpoint.

    Raises:
        BundleError: The index of the files is malformed, or names something else than files beside it.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    path = folder / INDEX
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        strange = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is malformed: {error}.", hint=AGAIN) from error
    if strange:
        raise BundleError(f"{path} names {strange[0]!r}, which is no file beside it.", hint=AGAIN)
    return [folder / name for name in names]
