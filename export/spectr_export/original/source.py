"""Finds the folder of a checkpoint, on the disk or on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from spectr_export.original.settings import read_settings
from spectr_runtime.bundle.layout import CONFIG, WEIGHTS
from spectr_runtime.errors import BundleError, SpectrError, UsageError, first_line

# The hub's rule for `name` and `owner/name`, then, after an @, a branch, tag or commit.
REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?)(@(?P<revision>[\w.\-/]+))?")
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
ADAPTER = "adapter_config.json"  # the file of peft that makes a folder an adapter
# Subfolders hold other formats, and files named `consolidated` are a second copy of the weights.
OTHER_FORMATS = ["*/*", "consolidated*"]


def fetch(source: str) -> Path:
    """Return the local folder of a model, after downloading it to the hub's cache if ``source`` names a repository.

    Args:
        source: A folder, or a hub id such as ``owner/name`` or ``owner/name@revision``.

    Raises:
        UsageError: ``source`` is neither a folder nor a valid hub id, or the hub has no such repository or revision.
        SpectrError: The hub cannot be reached or does not give the repository.
        BundleError: The folder holds no model of transformers.
    """
    folder = Path(source)
    if not (source and folder.is_dir()):
        found = REPOSITORY.fullmatch(source)
        if not found:
            raise UsageError(f"{source!r} is neither a folder nor a hub id.", hint="Give a folder or `owner/name`.")
        folder = _download(found["name"], found["revision"])
    _check_files(folder, source)
    return folder


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=FILES, ignore_patterns=OTHER_FORMATS)
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


def _check_files(folder: Path, source: str) -> None:
    if (folder / ADAPTER).is_file():
        raise _adapter(folder, source)
    if not (folder / CONFIG).is_file():
        raise BundleError(
            f"{source} has no config.json.", hint="Give a folder as transformers' save_pretrained writes it."
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
