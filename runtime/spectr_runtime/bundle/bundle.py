"""Opening a bundle, which is a folder that ``spectr-export`` wrote; ``layout`` lists its files.

Opening a bundle checks its format and the presence and content of every file, so that nothing half-built or altered is
ever decoded with. Calibrations and compiled engines are added to a bundle later. They have records of their own, and
the bundle's hash does not cover them.
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
    """A bundle on disk whose files were checked.

    Attributes:
        path: Folder of the bundle.
        manifest: Contents of its manifest.
    """

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> Bundle:
        """Open a bundle, and check every file in it and the bytes that its graphs refer to.

        Raises:
            BundleError: There is no bundle, its version is unknown, a file is missing, altered or not listed, or
                something in it refers to a file outside.
        """
        bundle = Bundle.look_at(path)
        check_graphs(bundle.path, bundle.manifest.files)
        return bundle

    @staticmethod
    def look_at(path: str | Path) -> Bundle:
        """Open a bundle whose graphs nobody will run: every file is checked, but graphs are not read.

        Reading graphs needs ``onnx``, whose import takes longer than everything else that a look at a bundle needs.

        Raises:
            BundleError: As for ``open``, except that the graphs' references are not checked.
        """
        folder = Path(path)
        manifest = Manifest.from_json(_read_manifest(folder))
        check_files(folder, manifest.files, MANIFEST)
        # Of all roles: a bundle without a draft must not hold files in the place of one either.
        check_strangers(folder, manifest.files, (*ROLES, TOKENIZER), ENGINES)
        return Bundle(folder, manifest)

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer."""
        return self.path / TOKENIZER

    @property
    def sha256(self) -> str:
        """The hash of the manifest, which holds the hashes of all other files."""
        return file_sha256(self.path / MANIFEST)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())

    def model(self, role: Role) -> Path:
        """Return the folder of a model."""
        return self.path / role

    def model_sha256(self, role: Role) -> str:
        """Return one hash of all files of a model that the manifest lists: of what engines are compiled from."""
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
