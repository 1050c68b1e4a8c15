"""Finds the folder of a checkpoint, on the disk or on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from spectr_export.console import Say
from spectr_export.original.formats.gguf import BESIDE, SUFFIX, unpack
from spectr_export.original.scratch import Scratch
from spectr_export.original.settings import read_settings
from spectr_runtime.bundle.layout import CONFIG, WEIGHTS
from spectr_runtime.errors import BundleError, SpectrError, UsageError, first_line

# The hub's rule for `name` and `owner/name`, then a GGUF file of it, and after an @ a branch, tag or commit.
REPOSITORY = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?)(?P<file>/[\w.\-/]+\.gguf)?(@(?P<revision>[\w.\-/]+))?"
)
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
PICKLE = "pytorch_model.bin"  # of which heads alone are read, and tensors alone
ADAPTER = "adapter_config.json"  # the file of peft that makes a folder an adapter
# Subfolders hold other formats, and files named `consolidated` are a second copy of the weights.
OTHER_FORMATS = ["*/*", "consolidated*"]


def fetch(source: str, scratch: Scratch, say: Say) -> Path:
    """Return the local folder of a model, after downloading it to the hub's cache if ``source`` names a repository.

    A GGUF file, or the only one of a folder that has no configuration, is unpacked into a folder of the scratch.

    Args:
        source: A folder, a GGUF file, or a hub id: ``owner/name`` or ``owner/name/FILE.gguf``, each perhaps with a
            ``@revision``.
        scratch: Takes what is unpacked.
        say: Takes a line on what is taken from where.

    Raises:
        UsageError: ``source`` is none of these, or the hub has no such repository, file or revision.
        SpectrError: The hub cannot be reached or does not give the repository.
        BundleError: The folder holds no model of transformers, or the GGUF file cannot be read.
        EngineError: The package that reads GGUF files is not installed.
    """
    path = _locate(source)
    if path.is_dir() and not (path / CONFIG).is_file():
        path = _only_gguf(path) or path
    if path.is_dir():
        _check_files(path, source)
        return path
    folder = scratch.stand_in(source)
    unpack(path, folder, say)
    return folder


def fetch_pickle(source: str, folder: Path) -> None:
    """Download the pickle file of a checkpoint from the hub into its folder if it has no weights in safetensors.

    Args:
        source: The checkpoint, as for ``fetch``.
        folder: What ``fetch`` returned.

    Raises:
        UsageError, SpectrError: As for ``fetch``.
    """
    found = REPOSITORY.fullmatch(source)
    if found and not Path(source).is_dir() and not any(folder.glob("*.safetensors")):
        _download(found["name"], found["revision"], [PICKLE])


def _locate(source: str) -> Path:
    """Return the folder or the GGUF file that a source names, downloaded if need be."""
    path = Path(source)
    if source and (path.is_dir() or (path.is_file() and path.suffix.lower() == SUFFIX)):
        return path
    found = REPOSITORY.fullmatch(source)
    if not found or path.is_file():
        raise UsageError(
            f"{source!r} is neither a folder nor a GGUF file nor a hub id.",
            hint="Give a folder, a file that ends in .gguf, `owner/name`, or `owner/name/FILE.gguf`.",
        )
    if found["file"] is None:
        return _download(found["name"], found["revision"], FILES)
    name = found["file"].removeprefix("/")
    file = _download(found["name"], found["revision"], [name, *BESIDE]) / name
    if not file.is_file():
        raise UsageError(f"{found['name']} has no file {name} on the hub.", hint="Check the spelling.")
    return file


def _only_gguf(folder: Path) -> Path | None:
    """Return the GGUF file of a folder that has one and nothing else to read."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if len(files) > 1:
        raise UsageError(
            f"{folder} holds {len(files)} GGUF files: {', '.join(path.name for path in files[:3])}"
            f"{' and more' if len(files) > 3 else ''}.",
            hint="Name one of them.",
        )
    return files[0] if files else None


def _download(repository: str, revision: str | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(
                repository, revision=revision, allow_patterns=list(files), ignore_patterns=_ignored(files)
            )
        )
    except RevisionNotFoundError as error:
        raise UsageError(
            f"{repository} has no branch, tag or commit {revision!r} on the hub.", hint="Check the part after the @."
        ) from error
    except GatedRepoError as error:
        raise SpectrError(
            f"{repository} is gated on the hub.", hint="Accept its terms there, then log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise UsageError(
            f"There is no folder {repository!r}, and the hub has no such repository that you may read.",
            hint="Check the spelling; for a private one log in with `hf auth login`.",
        ) from error
    except LocalEntryNotFoundError as error:
        raise SpectrError(
            f"There is no folder {repository!r}, the hub cannot be reached and its cache does not hold the model.",
            hint="Connect to the network, or give a local folder.",
        ) from error
    except Exception as error:  # the hub's client lets errors of its HTTP library through
        raise SpectrError(f"The hub did not give {repository}: {first_line(error)}", hint="Try again later.") from error


def _ignored(files: Sequence[str]) -> list[str]:
    """Return the patterns of files to leave; a GGUF file may stand in a subfolder."""
    return OTHER_FORMATS if files is FILES else []


def _check_files(folder: Path, source: str) -> None:
    if (folder / ADAPTER).is_file():
        raise _adapter(folder, source)
    if not (folder / CONFIG).is_file():
        raise BundleError(
            f"{source} has no config.json.",
            hint="Give a folder as transformers' save_pretrained writes it, or `owner/name/FILE.gguf` for a file in "
            "GGUF.",
        )


def _adapter(folder: Path, source: str) -> BundleError:
    settings = read_settings(folder / ADAPTER)
    kind, base = settings.get("peft_type", "LORA"), settings.get("base_model_name_or_path", "an unnamed model")
    merged = f" If {WEIGHTS} is the merged model already, take {ADAPTER} away." if (folder / WEIGHTS).is_file() else ""
    return BundleError(
        f"{source} holds an adapter ({kind}) for {base}, not a model of its own: it has {ADAPTER}.",
        hint="Merge it first: load it with peft's AutoPeftModelForCausalLM.from_pretrained, and write what "
        f"merge_and_unload() returns, and the tokenizer, with save_pretrained.{merged}",
    )
