"""The manifest of a bundle: the contents of ``spectr.json``.

Reading it loads no tensor library, so that commands which only look at a bundle answer at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from spectr_runtime.bundle.checks import LARGEST, check_fields, check_mapping
from spectr_runtime.bundle.layout import MANIFEST
from spectr_runtime.bundle.spec import ModelSpec
from spectr_runtime.errors import BundleError

FORMAT_VERSION = 3
CONTRACT_VERSION = 1
Role = Literal["draft", "target"]
ROLES: tuple[Role, Role] = ("draft", "target")  # that there are; a bundle may have no draft


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the graphs and engines of a bundle were made for.

    Attributes:
        capacity: Longest text of a row in tokens, prompt and completion together.
        tokens_per_call: The largest number of tokens that one call feeds to a row.
    """

    capacity: int
    tokens_per_call: int

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that are written: those that draft and target share, or the target's own.

    Attributes:
        size: Number of tokens. A model may have more logits; those are padding and are left out. The draft may have
            fewer, or others (``bundle.tokens``); it gives the others no probability.
        eos_token_ids: Ids that end a completion.
        substitute: The draft's own id of what it is fed in place of a token for which it has no logit; a head reads
            all tokens.
    """

    size: int
    eos_token_ids: tuple[int, ...]
    substitute: int = 0

    def __post_init__(self) -> None:
        check_mapping("vocabulary", {"size": self.size, "substitute": self.substitute}, int)
        if not 0 <= self.substitute < self.size <= LARGEST:
            raise BundleError(
                f"A vocabulary has {self.size} tokens and {self.substitute} as substitute; it must have from 1 to "
                f"{LARGEST} tokens, and the substitute must be one of them."
            )
        outside = [token for token in self.eos_token_ids if not 0 <= token < self.size]
        if outside:
            raise BundleError(f"End tokens {outside} lie outside the vocabulary of {self.size} tokens.")


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """The contents of ``spectr.json``.

    Attributes:
        models: The specifications of draft and target, or of the target alone.
        vocabulary: The tokens that are written.
        limits: What the graphs were made for.
        files: SHA-256 of every other file, by its path in the bundle with forward slashes.
        versions: Versions of the tools that made the bundle.
        sampling: The model's own sampling parameters, by the names that ``SamplingParams`` has for them: those that the
            target's ``generation_config.json`` gives.
        parity: For each model, the largest differences from the original in PyTorch, by the stage of the build.
        quality: What was measured of each model on a text. Of a model of reduced precision: ``original``, the nats per
            token of the original; ``lost``, how many more the model needs; ``half``, by how much the logits of tokens
            that half precision prefers fall short of the best; ``rounded``, by what part of their spread the logits
            differ from the original's when both round what they multiply. Of every draft: ``acceptance``, the
            probability that the target accepts one token of it at temperature 1.
        overrides: For each model that was built with other fields than its ``config.json`` had, these fields and their
            values; names within an object follow its own with dots.
    """

    models: Mapping[Role, ModelSpec]
    vocabulary: Vocabulary
    limits: Limits
    files: Mapping[str, str]
    versions: Mapping[str, str]
    parity: Mapping[Role, Mapping[str, float]]
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    quality: Mapping[Role, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    overrides: Mapping[Role, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mapping("files", self.files, str)
        check_mapping("versions", self.versions, str)
        check_mapping("parity", self.parity, Mapping)
        check_mapping("sampling", self.sampling, (int, float))
        self._check_roles()
        self._check_vocabulary()
        self._check_head()
        check_mapping("quality", self.quality, Mapping)
        check_mapping("overrides", self.overrides, Mapping)
        for role in self.roles:
            check_mapping(f"parity.{role}", self.parity[role], (int, float))

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the bundle's models: draft and target, or the target alone."""
        return tuple(role for role in ROLES if role in self.models)

    @property
    def acceptance(self) -> float | None:
        """How often the target accepts a token of the draft, as measured in the build; None if it was not."""
        return self.quality.get("draft", {}).get("acceptance")

    @property
    def has_draft(self) -> bool:
        """Whether the bundle has a model that drafts; without one, drafts can still be looked up in texts."""
        return "draft" in self.models

    def _check_roles(self) -> None:
        """Check that there is a target, beside it a draft or nothing, and parity of the same models."""
        if "target" not in self.models or {*self.models} != {*self.roles} or self.parity.keys() != self.models.keys():
            models, parity = (", ".join(sorted(one)) or "none" for one in (self.models, self.parity))
            raise BundleError(
                f"The models are {models}, those with figures of parity {parity}; both must be draft and target, or "
                "target alone.",
                hint="Build the bundle again.",
            )

    def _check_vocabulary(self) -> None:
        """Check that the target scores every token, and that the draft knows what it is fed in place of others."""
        size, substitute = self.vocabulary.size, self.vocabulary.substitute
        target = self.models["target"].vocabulary
        draft = self.models["draft"].vocabulary if self.has_draft else target
        if size > target or substitute >= draft:
            beside = f", the draft {draft}" if self.has_draft else ""
            raise BundleError(
                f"The vocabulary has {size} tokens and {substitute} as substitute; the target has {target} logits"
                f"{beside}."
            )

    def _check_head(self) -> None:
        """Check that a head reads what the target gives out, in the type in which it does, and that no other does."""
        target, draft = self.models["target"], self.models.get("draft")
        head = None if draft is None else draft.head
        given = None if target.features is None else (target.features.width, target.dtype)
        read = None if head is None or draft is None else (head.features, draft.dtype)
        if target.head is not None or given != read or (draft is not None and draft.features is not None):
            raise BundleError(
                f"The draft reads features of {read}, the target gives out {given}.", hint="Build the bundle again."
            )

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as JSON values, with the versions of format and contract in front."""
        return {
            "format_version": FORMAT_VERSION,
            "contract_version": CONTRACT_VERSION,
            "models": {role: self.models[role].to_json() for role in self.roles},
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "limits": dataclasses.asdict(self.limits),
            "sampling": dict(self.sampling),
            "versions": dict(self.versions),
            "parity": {role: dict(self.parity[role]) for role in self.roles},
            "quality": {role: dict(measured) for role, measured in self.quality.items()},
            "overrides": {role: dict(fields) for role, fields in self.overrides.items()},
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
                models={role: ModelSpec.from_json(spec) for role, spec in value["models"].items()},
                vocabulary=Vocabulary(vocabulary["size"], tuple(vocabulary["eos_token_ids"]), vocabulary["substitute"]),
                limits=Limits(**value["limits"]),
                files=value["files"],
                versions=value["versions"],
                parity=value["parity"],
                sampling=value["sampling"],
                quality=value.get("quality", {}),
                overrides=value["overrides"],
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise BundleError(f"{MANIFEST} is malformed: {error}.", hint="Build the bundle again.") from error
