"""Where the rows of a run come from: versions and machine, and whether inputs and bundle are unchanged."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from spectr_jobs.inputs.sources import fingerprint
from spectr_jobs.inputs.stores import is_remote
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_runtime.bundle import Bundle
from spectr_runtime.bundle.layout import MANIFEST
from spectr_runtime.errors import BundleError
from spectr_runtime.files import file_sha256

PACKAGES = ("spectr", "torch", "onnxruntime", "onnxruntime-gpu", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that a run's rows depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return the facts about this machine: host, system, architecture and number of CPUs."""
    return {
        "host": platform.node(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
    }


def open_bundle(run: RunDirectory, path: Path | None) -> Bundle:
    """Open the bundle of a run.

    Args:
        run: The run directory.
        path: Path of the bundle if it was moved; None for the path that the run directory remembers.

    Raises:
        BundleError: There is no bundle at the path, or another one.
    """
    bundle = Bundle.open(path or run.manifest.bundle)
    if bundle.sha256 != run.manifest.terms.bundle_sha256:
        raise BundleError(f"{bundle.path} is not the bundle of {run.path}.", hint="Name the right one with --bundle.")
    return bundle


def changed_sources(run: RunDirectory) -> Iterator[str]:
    """Yield a message for every input that is gone or has changed since the run began, and for a changed bundle."""
    for file in run.manifest.files:
        if not is_remote(file.path) and not Path(file.path).is_file():
            yield f"input {file.path} is gone"
        elif fingerprint(file.source) != file.fingerprint:
            yield f"input {file.path} is not the file that was decoded"
    bundle = Path(run.manifest.bundle) / MANIFEST
    if bundle.is_file() and file_sha256(bundle) != run.manifest.terms.bundle_sha256:
        yield f"bundle {run.manifest.bundle} is not the one that decoded the rows"
