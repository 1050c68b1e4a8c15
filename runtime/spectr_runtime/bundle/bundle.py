"""The bundle: what ``spectr-export`` writes and everything else opens; ``layout`` shows what is in it.

Opening checks the format, the presence of every file and its content, so that nothing half-built or altered decodes.
Calibrations and compiled engines are added to a bundle later: they have records of their own, and the bundle's hash
stays as it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectr_runtime.bundle.integrity import check_files, check_graphs, check_strangers
from spectr_runtime.bundle.layout import ENGINES, MANIFEST, TOKENIZER
from spectr_runtime.bundle.manifest import ROLES, Manifest, Role
from spectr_runtime.errors import BundleError
from spectr_runtime.files import file_sha256


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> Bundle:
        """Open a bundle and check every file in it, and what its graphs point at.

        Raises:
            BundleError: There is no bundle, its version is unknown, a file is missing, altered or not listed, or
                something in it points outside.
        """
        bundle = Bundle.look_at(path)
        check_graphs(bundle.path, bundle.manifest.files)
        return bundle

    @staticmethod
    def look_at(path: str | Path) -> Bundle:
        """Open a bundle whose graphs nobody will run: every file is checked, but what they hold is not read.

        Reading graphs loads ``onnx``, which takes longer than everything else that a look at a bundle needs.

        Raises:
            BundleError: As ``open``, but for what graphs point at.
        """
        folder = Path(path)
        manifest = Manifest.from_json(_read_manifest(folder))
        check_files(folder, manifest.files, MANIFEST)
        check_strangers(folder, manifest.files, (*ROLES, TOKENIZER), ENGINES)
        return Bundle(folder, manifest)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / TOKENIZER

    @property
    def sha256(self) -> str:
        """Hash of the manifest, and through it of every file."""
        return file_sha256(self.path / MANIFEST)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def model(self, role: Role) -> Path:
        """Folder of a model."""
        return self.path / role

    def model_sha256(self, role: Role) -> str:
        """Hash of every file of a model that the manifest lists, which is what an engine is compiled from."""
        files = sorted((name, digest) for name, digest in self.manifest.files.items() if name.startswith(f"{role}/"))
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _read_manifest(folder: Path) -> Mapping[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        what = f"no {MANIFEST} in it" if folder.is_dir() else "no such folder"
        raise BundleError(
            f"{folder} is not a bundle: {what}.",
            hint=f"Make one with `spectr-export build TARGET --draft DRAFT -o {folder}`.",
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path} is not JSON: {error}.", hint="Build the bundle again.") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds {type(value).__name__}, not an object.", hint="Build the bundle again.")
    return value
