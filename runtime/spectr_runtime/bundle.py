"""The bundle: what ``spectr-export`` writes and everything else opens.

    BUNDLE/spectr.json            this manifest
    BUNDLE/tokenizer/             as saved by transformers
    BUNDLE/draft/, target/        config.json, model.safetensors, model.onnx (its weights point into model.safetensors)

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
from typing import Any, Literal

from spectr_runtime.checks import check_fields, check_mapping
from spectr_runtime.engine import ModelSpec
from spectr_runtime.errors import BundleError
from spectr_runtime.integrity import check_files, check_graphs, check_strangers
from spectr_runtime.integrity import file_sha256 as file_sha256

FORMAT_VERSION = 1
CONTRACT_VERSION = 1
MANIFEST = "spectr.json"
ENGINES = "engines"  # folder of a model's compiled engines
Role = Literal["draft", "target"]
ROLES: tuple[Role, Role] = ("draft", "target")


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the graphs and engines of a bundle were made for.

    Attributes:
        capacity: Longest text of a row in tokens, prompt and completion together.
        tokens_per_call: Most tokens that one call feeds to a row.
    """

    capacity: int
    tokens_per_call: int

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that draft and target share.

    Attributes:
        size: Token ids below this are decoded; logits at and beyond it are padding of one of the models.
        eos_token_ids: Ids that end a completion.
    """

    size: int
    eos_token_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        check_fields(self)
        outside = [token for token in self.eos_token_ids if not 0 <= token < self.size]
        if outside:
            raise BundleError(f"End tokens {outside} lie outside the vocabulary of {self.size}.")


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of ``spectr.json``.

    Attributes:
        models: Sizes of the draft and the target.
        vocabulary: The tokens they share.
        limits: What the graphs were made for.
        files: SHA-256 of every other file, by its path in the bundle with forward slashes.
        versions: Tools that made the bundle.
        parity: Largest difference to PyTorch eager found when the bundle was built, per model.
        quality: What a model's precision costs, if anything: nats per token of the ``original`` on a text and what is
            ``lost`` of them, by how much tokens that ``half`` precision prefers fall short of the best logit, and by
            what part of their spread logits that are ``rounded`` on the way differ from PyTorch's.
    """

    models: Mapping[Role, ModelSpec]
    vocabulary: Vocabulary
    limits: Limits
    files: Mapping[str, str]
    versions: Mapping[str, str]
    parity: Mapping[Role, Mapping[str, float]]
    quality: Mapping[Role, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mapping("files", self.files, str)
        check_mapping("versions", self.versions, str)
        check_mapping("parity", self.parity, Mapping)
        check_mapping("quality", self.quality, Mapping)
        for role in ROLES:
            check_mapping(f"parity.{role}", self.parity[role], (int, float))

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, with the versions of format and contract in front."""
        return {
            "format_version": FORMAT_VERSION,
            "contract_version": CONTRACT_VERSION,
            "models": {role: dataclasses.asdict(self.models[role]) for role in ROLES},
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "limits": dataclasses.asdict(self.limits),
            "versions": dict(self.versions),
            "parity": {role: dict(self.parity[role]) for role in ROLES},
            "quality": {role: dict(measured) for role, measured in self.quality.items()},
            "files": dict(sorted(self.files.items())),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Manifest:
        """Read a manifest.

        Raises:
            BundleError: A version is unknown or a field is missing or malformed.
        """
        for name, known in (("format_version", FORMAT_VERSION), ("contract_version", CONTRACT_VERSION)):
            if value.get(name) != known:
                raise BundleError(
                    f"The bundle's {name} is {value.get(name)!r}; this spectr reads {known}.",
                    hint="Build it again with this version's `spectr-export build`.",
                )
        try:
            vocabulary = value["vocabulary"]
            return Manifest(
                models={role: ModelSpec(**value["models"][role]) for role in ROLES},
                vocabulary=Vocabulary(vocabulary["size"], tuple(vocabulary["eos_token_ids"])),
                limits=Limits(**value["limits"]),
                files=value["files"],
                versions=value["versions"],
                parity=value["parity"],
                quality=value.get("quality", {}),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise BundleError(f"{MANIFEST} is malformed: {error}.", hint="Build the bundle again.") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Bundle:
    """A checked bundle on disk."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: str | Path) -> Bundle:
        """Open a bundle and check every file in it.

        Raises:
            BundleError: There is no bundle, its version is unknown, a file is missing, altered or not listed, or
                something in it points outside.
        """
        folder = Path(path)
        manifest = Manifest.from_json(_read_manifest(folder))
        check_files(folder, manifest.files, MANIFEST)
        check_strangers(folder, manifest.files, (*ROLES, "tokenizer"), ENGINES)
        check_graphs(folder, manifest.files)
        return Bundle(folder, manifest)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    @property
    def sha256(self) -> str:
        """Hash of the manifest, and through it of every file."""
        return file_sha256(self.path / MANIFEST)

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
