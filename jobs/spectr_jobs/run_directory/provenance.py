"""What a run's rows come from: versions and machine, and whether inputs and bundle are still what they were."""

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
    """Return the versions of Python and of the installed packages that decide what a run writes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return what this process runs on: host, system, processor and number of processors."""
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
        path: Where the bundle is now, if it was moved; None for where it was when the run began.

    Raises:
        BundleError: There is no bundle, or it is another one.
    """
    bundle = Bundle.open(path or run.manifest.bundle)
    if bundle.sha256 != run.manifest.terms.bundle_sha256:
        raise BundleError(f"{bundle.path} is not the bundle of {run.path}.", hint="Name the right one with --bundle.")
    return bundle


def changed_sources(run: RunDirectory) -> Iterator[str]:
    """Yield, in words, every input that is gone or changed since the run began, and the bundle if it changed."""
    for file in run.manifest.files:
        if not is_remote(file.path) and not Path(file.path).is_file():
            yield f"input {file.path} is gone"
        elif fingerprint(file.source) != file.fingerprint:
            yield f"input {file.path} is not the file that was decoded"
    bundle = Path(run.manifest.bundle) / MANIFEST
    if bundle.is_file() and file_sha256(bundle) != run.manifest.terms.bundle_sha256:
        yield f"bundle {run.manifest.bundle} is not the one that decoded"
