"""Checks that the weights and sizes of a checkpoint are sound, before a library relies on them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from spectr_export.console import Say
from spectr_export.original.formats.gguf import is_gguf
from spectr_export.original.settings import read_settings
from spectr_runtime.bundle.checks import LARGEST
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.errors import BundleError

INDEX = f"{WEIGHTS}.index.json"
AGAIN = "Get the checkpoint again."
SHARD = re.compile(r"-\d+-of-\d+")
SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def check_weights(folder: Path, say: Say) -> None:
    """Check that a checkpoint has its weights in safetensors, every file against its header, or in a GGUF file.

    Args:
        folder: The checkpoint.
        say: Takes a line on files that are left out.

    Raises:
        BundleError: There are no such weights, or a file is not sound; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    if is_gguf(folder):
        return  # its reader has checked it
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        raise _no_weights(folder)
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        say(f"{folder}: {WEIGHTS} is read, as by transformers, and not the files of {INDEX}")
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path} is no sound safetensors file: {error}.", hint=AGAIN) from error


def _no_weights(folder: Path) -> BundleError:
    """Return what to say of a folder that has its weights under other names or in other formats, or has none."""
    named = sorted(path.name for path in folder.glob("*.safetensors"))
    if len(named) == 1 and not SHARD.search(named[0]):
        return BundleError(
            f"{folder} has its weights in {named[0]}; transformers and spectr read {WEIGHTS}.",
            hint=f"Rename {named[0]} to {WEIGHTS}.",
        )
    if named:
        return BundleError(
            f"{folder} has {', '.join(named[:3])} and neither {WEIGHTS} nor {INDEX}.",
            hint="Get the index too; a variant, such as fp16, can be loaded with transformers' from_pretrained(..., "
            "variant=...) and written again with save_pretrained.",
        )
    files = sorted(folder.glob("*.gguf"))
    if files:
        return BundleError(f"{folder} has no weights in safetensors.", hint=f"Name its GGUF file: {files[0]}.")
    pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
    found = f"only {', '.join(pickles[:3])}, and pickle files can run code" if pickles else "none"
    return BundleError(
        f"{folder} must have its weights in safetensors; found {found}.",
        hint="Convert the checkpoint with transformers' save_pretrained."
        if pickles
        else f"Put {WEIGHTS} there, as save_pretrained writes it.",
    )


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
    named = read_settings(path).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise BundleError(
            f"{path} gives weight_map as {named!r:.60}; it must be an object with the file of every tensor.", hint=AGAIN
        )
    names = sorted(set(named.values()))
    strange = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if strange:
        raise BundleError(f"{path} names {strange[0]!r}, which is no file beside it.", hint=AGAIN)
    return [folder / name for name in names]
