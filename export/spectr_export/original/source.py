"""Finds the folder of a checkpoint, on the disk or on the hub; its weights must be in safetensors."""

from __future__ import annotations

import re
from pathlib import Path

from spectr_export.original.checkpoint import check_weights
from spectr_runtime.bundle.layout import CONFIG
from spectr_runtime.errors import BundleError, SpectrError, UsageError, first_line

# The hub's rule for `name` and `owner/name`, then, after an @, a branch, tag or commit.
REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?)(@(?P<revision>[\w.\-/]+))?")
FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
# Subfolders hold other formats, and files named `consolidated` are a second copy of the weights.
OTHER_FORMATS = ["*/*", "consolidated*"]


def fetch(source: str) -> Path:
    """Return the local folder of a model, after downloading it to the hub's cache if ``source`` names a repository.

    Args:
        source: A folder, or a hub id such as ``owner/name`` or ``owner/name@revision``.

    Raises:
        UsageError: ``source`` is neither a folder nor a valid hub id, or the hub has no such repository or revision.
        SpectrError: The hub cannot be reached or does not give the repository.
        BundleError: The model has no weights in safetensors, or files that are not sound.
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
    if not (folder / CONFIG).is_file():
        raise BundleError(
            f"{source} has no config.json.", hint="Give a folder as transformers' save_pretrained writes it."
        )
    if any(folder.glob("*.safetensors")):
        check_weights(folder)
        return
    pickles = sorted(path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")))
    found = f"only {', '.join(pickles[:3])}, and pickle files can run code" if pickles else "none"
    raise BundleError(
        f"{source} must have its weights in safetensors; found {found}.",
        hint="Convert the checkpoint with transformers' save_pretrained.",
    )
