"""The compiled engines of a bundle: which there are, and which of them runs a model on a machine.

    BUNDLE/<role>/engines/<name>.engine      the engine, for one release of TensorRT, some GPUs and a number of slots
    BUNDLE/<role>/engines/<name>.json        its record, a ``CompiledEngine``
    BUNDLE/<role>/engines/<name>.layers.txt  what the engine consists of, for people

A row of an engine has a fixed number of slots, so a bundle may hold several engines for a machine, the largest of them
for the longest text that the bundle takes.

An engine is derived from the model beside it, so the bundle's hash does not cover it. Instead its record holds the hash
of the model and that of the engine, and both are checked before the engine is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.bundle.compiled import CompiledEngine, EngineKey
from spectr_runtime.bundle.layout import ENGINES
from spectr_runtime.errors import BundleError, EngineError
from spectr_runtime.files import file_sha256


def list_engines(bundle: Bundle, role: Role) -> Mapping[Path, CompiledEngine]:
    """Return the records of a model's engines by the engines' files: by their machines, and the smallest first.

    Raises:
        BundleError: A record is malformed.
    """
    records = (bundle.model(role) / ENGINES).glob("*.json")
    engines = [(record.with_suffix(".engine"), _read(record)) for record in records]
    return dict(sorted(engines, key=lambda one: (one[1].key.name, one[1].capacity, one[0])))


def find_engines(bundle: Bundle, role: Role, machine: EngineKey) -> list[tuple[Path, CompiledEngine]]:
    """Return the files and the records of the engines that run a model on a machine, the smallest first.

    Raises:
        EngineError: No engine runs there; the hint is the command that compiles one.
        BundleError: A record is malformed.
    """
    engines = list_engines(bundle, role)
    if found := [one for one in engines.items() if one[1].key.runs_on(machine)]:
        return sorted(found, key=lambda one: (one[1].capacity, one[1].rows))
    held = "; ".join(dict.fromkeys(str(compiled.key) for compiled in engines.values()))
    raise EngineError(
        f"The {role} has no engine for {machine}, which this machine needs; it has {held or 'none'}.",
        hint=f"Run `spectr-export compile {bundle.path} --backend {machine.flavour}` on this machine.",
    )


def smallest_engine(
    engines: Sequence[tuple[Path, CompiledEngine]], *, rows: int, slots: int
) -> tuple[Path, CompiledEngine]:
    """Return the first of some engines that takes so many rows of so many slots; the last one if none does."""
    fitting = (one for one in engines if one[1].rows >= rows and one[1].capacity >= slots)
    return next(fitting, engines[-1])


def find_engine(
    bundle: Bundle, role: Role, machine: EngineKey, *, rows: int, slots: int
) -> tuple[Path, CompiledEngine]:
    """Return the file and the record of the smallest engine that runs a model on a machine and is large enough.

    If none is, the largest one is returned.

    Args:
        bundle: The bundle.
        role: The model.
        machine: Key of the machine.
        rows: Number of rows of the batch.
        slots: Number of slots of a row.

    Raises:
        EngineError: No engine runs there; the hint is the command that compiles one.
        BundleError: A record is malformed, or the engine is not the one that was compiled, or was compiled from another
            model.
    """
    path, compiled = smallest_engine(find_engines(bundle, role, machine), rows=rows, slots=slots)
    check_engine(bundle, role, path, compiled)
    return path, compiled


def check_engine(bundle: Bundle, role: Role, path: Path, compiled: CompiledEngine) -> None:
    """Check that an engine is the one that its record describes, and was compiled from the model beside it.

    Raises:
        BundleError: The engine is missing or another one, or it was compiled from another model.
    """
    hint = f"Run `spectr-export compile {bundle.path} --backend {compiled.key.flavour}` again."
    name = path.relative_to(bundle.path)
    if compiled.model_sha256 != bundle.model_sha256(role):
        raise BundleError(f"{name} was compiled from another model than the {role} beside it.", hint=hint)
    if not path.is_file() or not path.resolve().is_relative_to(bundle.path.resolve()):
        raise BundleError(f"{name} is missing from the bundle {bundle.path}.", hint=hint)
    if file_sha256(path) != compiled.sha256:
        raise BundleError(
            f"{name} is not the engine that was compiled: its SHA-256 differs from its record.", hint=hint
        )


def check_engines(bundle: Bundle) -> int:
    """Check every engine of a bundle, whatever machine it is for, and return their number.

    Raises:
        BundleError: As for ``check_engine`` and ``list_engines``.
    """
    engines = [(role, *engine) for role in bundle.manifest.roles for engine in list_engines(bundle, role).items()]
    for role, path, compiled in engines:
        check_engine(bundle, role, path, compiled)
    return len(engines)


def _read(record: Path) -> CompiledEngine:
    try:
        compiled = CompiledEngine.from_json(json.loads(record.read_text(encoding="utf-8")))
        # Before bundles held engines of several sizes, the names of their files did not say the size.
        if record.stem not in (compiled.name, compiled.key.name):
            raise BundleError(f"It describes {compiled.key} with rows of {compiled.capacity} slots.")
    except (ValueError, RecursionError, BundleError) as error:
        raise BundleError(
            f"{record} is not the record of an engine: {error}",
            hint="Remove it and run `spectr-export compile` again.",
        ) from error
    return compiled
