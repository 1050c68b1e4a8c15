"""The record of an engine that was compiled ahead of time: the machines, the sizes and the calls that it is for."""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted.
from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from spectr_runtime.backends import FLAVOURS
from spectr_runtime.bundle.checks import check_fields
from spectr_runtime.errors import BundleError, EngineError

LETTERS = ("B", "T", "L", "M")  # the dimensions of a call


@dataclasses.dataclass(frozen=True, slots=True)
class EngineKey:
    """The machines that an engine was compiled for. A single machine is described by the same class.

    Attributes:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        version: The full release of TensorRT; an engine of one release does not run on any other.
        capabilities: Compute capabilities of the GPUs, such as ``8.9``; a machine has one.
        gpu: Name of the GPU for TensorRT, which tunes an engine for it; empty for TensorRT-RTX, whose engines run on
            every GPU of their capabilities.
    """

    flavour: str
    version: str
    capabilities: tuple[str, ...]
    gpu: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.flavour not in FLAVOURS or bool(self.gpu) != (self.flavour == "tensorrt"):
            raise BundleError(
                f"An engine of {self.flavour!r} names the GPU {self.gpu!r}; engines of TensorRT must name a GPU, those "
                "of TensorRT-RTX none."
            )
        if not self.capabilities or not all(re.fullmatch(r"\d+\.\d", one) for one in self.capabilities):
            raise BundleError(
                f"Compute capabilities are {self.capabilities!r}; they must be at least one such as '8.9'."
            )
        if not re.fullmatch(r"[\w.+]+", self.version):
            raise BundleError(f"The version is {self.version!r}; it must be one such as '1.7.1.116'.")

    @property
    def name(self) -> str:
        """The key as a part of names of files."""
        capabilities = (f"sm{one.replace('.', '')}" for one in self.capabilities)
        words = " ".join((self.flavour, self.version, *capabilities, self.gpu))
        return re.sub(r"[^a-z0-9.]+", "-", words.strip().lower())

    def runs_on(self, machine: EngineKey) -> bool:
        """Return whether a machine can run the engine."""
        same = (self.flavour, self.version, self.gpu) == (machine.flavour, machine.version, machine.gpu)
        return same and set(machine.capabilities) <= set(self.capabilities)

    def __str__(self) -> str:
        gpu = f" ({self.gpu})" if self.gpu else ""
        return f"{self.flavour} {self.version} on compute capability {', '.join(self.capabilities)}{gpu}"


@dataclasses.dataclass(frozen=True, slots=True)
class Dimension:
    """The sizes that one dimension of a call may have.

    Attributes:
        least: The smallest size.
        best: The size that TensorRT chooses kernels for.
        most: The largest size.
    """

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.least <= self.best <= self.most:
            raise BundleError(
                f"The sizes of a dimension are {self.least}, {self.best} and {self.most}; they must not fall."
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Profile:
    """The calls that one execution context of an engine can run.

    Attributes:
        name: ``decode`` or ``prefill``.
        spans: The sizes of B, T, L and M, by these letters.
    """

    name: str
    spans: Mapping[str, Dimension]

    def __post_init__(self) -> None:
        if set(self.spans) != set(LETTERS):
            raise BundleError(f"Profile {self.name!r} spans {sorted(self.spans)}; it must span {', '.join(LETTERS)}.")
        if self.spans["M"].most > self.spans["T"].most:
            raise BundleError(
                f"Profile {self.name!r} returns the logits of {self.spans['M'].most} tokens and feeds at most "
                f"{self.spans['T'].most}."
            )

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Return whether the profile can run a call of these sizes."""
        return all(self.spans[letter].least <= size <= self.spans[letter].most for letter, size in sizes.items())


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledEngine:
    """The record of an engine: what must be known about it before it is opened.

    Attributes:
        key: The machines that the engine was compiled for.
        model_sha256: Hash of the model that it was compiled from, as ``Bundle.model_sha256`` returns it.
        sha256: Hash of the engine's file.
        capacity: Number of slots of a row, which is fixed in the engine.
        profiles: The calls that it can run, in the order of the engine's optimisation profiles.
        attention: ``fused``, or ``decomposed`` if there is no fused kernel for the head size or type.
        weight_streaming: Whether weights that do not fit on the GPU are streamed from the host.
    """

    key: EngineKey
    model_sha256: str
    sha256: str
    capacity: int
    profiles: tuple[Profile, ...]
    attention: str
    weight_streaming: bool

    def __post_init__(self) -> None:
        check_fields(self)
        rows = {profile.spans["B"].most for profile in self.profiles}
        if len(rows) != 1:
            raise BundleError(
                f"The profiles of an engine must serve the same number of rows; these serve {sorted(rows)}."
            )
        longest = max(profile.spans[letter].most for profile in self.profiles for letter in ("T", "L"))
        if longest > self.capacity:
            raise BundleError(f"A profile writes or sees {longest} slots; a row of the engine has {self.capacity}.")

    @property
    def name(self) -> str:
        """The name of the engine's files, without their endings."""
        return f"{self.key.name}-{self.capacity}-slots"

    @property
    def rows(self) -> int:
        """The largest number of rows of a call."""
        return self.profiles[0].spans["B"].most

    @property
    def tree_tokens(self) -> int:
        """The most tokens of a call that returns the logits of all."""
        return max(profile.spans["M"].most for profile in self.profiles)

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Any) -> CompiledEngine:
        """Read a record.

        Raises:
            BundleError: A field is missing or malformed.
        """
        try:
            fields = dict(value)
            profiles = [
                Profile(profile["name"], {letter: Dimension(**span) for letter, span in profile["spans"].items()})
                for profile in fields.pop("profiles")
            ]
            key = dict(fields.pop("key"))
            capabilities = tuple(key.pop("capabilities"))
            return CompiledEngine(key=EngineKey(capabilities=capabilities, **key), profiles=tuple(profiles), **fields)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"A field is missing or malformed: {error}.") from error


def choose_profile(profiles: Sequence[Profile], sizes: Mapping[str, int]) -> int:
    """Return the index of the first profile that can run a call.

    Args:
        profiles: Profiles of the engine.
        sizes: Sizes B, T, L and M of the call.

    Raises:
        EngineError: No profile can run the call.
    """
    for index, profile in enumerate(profiles):
        if profile.takes(sizes):
            return index
    spans = "; ".join(
        f"{profile.name} "
        + " ".join(f"{letter}={span.least}..{span.most}" for letter, span in sorted(profile.spans.items()))
        for profile in profiles
    )
    asked = " ".join(f"{letter}={size}" for letter, size in sorted(sizes.items()))
    raise EngineError(
        f"The engine has no profile for a call of {asked}; it has {spans}.",
        hint="Compile it with a larger --batch-size or --tree-tokens.",
    )
