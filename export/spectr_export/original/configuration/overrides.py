"""Fields of a checkpoint's config.json that a build replaces: ``--config KEY=VALUE``."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_export.original.configuration.rotary import NAMES, PARAMETERS, SCALING, groups, rotary_groups
from spectr_export.original.scratch import Scratch, link_files
from spectr_export.original.settings import read_settings
from spectr_runtime.bundle import ROLES, Role
from spectr_runtime.bundle.layout import CONFIG
from spectr_runtime.errors import BundleError, UsageError

# Fields that transformers keeps in the object of rotary parameters, and older files beside it.
BESIDE = ("rope_theta", "partial_rotary_factor")
OPTIONS = {"dtype": "--dtype", "torch_dtype": "--dtype"}  # fields that options of a build decide
JSON_STARTS = ("{", "[", '"')


@dataclasses.dataclass(frozen=True, slots=True)
class Override:
    """One field of a configuration that a build replaces.

    Attributes:
        role: The model whose configuration it is; None for both models of the pair.
        key: The field; names within objects follow with dots.
        value: Its value, as JSON has it.
    """

    role: Role | None
    key: str
    value: Any

    def __str__(self) -> str:
        """Return the override as an option's value."""
        return f"{self.key}={json.dumps(self.value)}"


def parse_overrides(given: Sequence[str]) -> list[Override]:
    """Read the values of ``--config``.

    Args:
        given: Each ``KEY=VALUE``, ``target.KEY=VALUE`` or ``draft.KEY=VALUE``. VALUE is JSON, or text if it is not.

    Raises:
        UsageError: One has no key, begins like JSON and is not, or two give the same field.
    """
    overrides: list[Override] = []
    for text in given:
        key, equals, value = text.partition("=")
        first, _, rest = key.partition(".")
        role = next((role for role in ROLES if role == first and rest), None)
        override = Override(role, rest if role else key, _parse_value(text, value))
        if not equals or not all(override.key.split(".")):
            raise UsageError(
                f"--config {text!r} is not of the form KEY=VALUE.",
                hint="Give a field of config.json and its value, such as `--config rope_theta=1000000`.",
            )
        if any(other.key == override.key and _meet(other.role, override.role) for other in overrides):
            raise UsageError(f"--config gives {key} twice.", hint="Give every field once.")
        overrides.append(override)
    return overrides


def _meet(one: Role | None, other: Role | None) -> bool:
    return one is None or other is None or one == other


def _parse_value(text: str, value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        if value.lstrip().startswith(JSON_STARTS):
            raise UsageError(
                f"--config {text!r:.120} has a value that is not JSON: {error}.",
                hint="Quote it for the shell: --config 'KEY={\"name\": 1}'.",
            ) from error
        return value


def overridden(folder: Path, overrides: Sequence[Override], scratch: Scratch) -> Path:
    """Return a folder with the files of a checkpoint and a config.json in which fields are replaced.

    Args:
        folder: The checkpoint.
        overrides: The fields; without any the checkpoint itself is returned.
        scratch: Where the folder is made.

    Raises:
        UsageError: The architecture's configuration has no such field, or a name within it leads to no object.
        BundleError: config.json is malformed.
    """
    if not overrides:
        return folder
    settings = read_settings(folder / CONFIG)
    for override in overrides:
        _refuse_unknown(override, settings)
        settings = _replaced(settings, override)
    made = scratch.stand_in(folder)
    link_files(folder, made, without={CONFIG})
    (made / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    return made


def without_effect(overrides: Sequence[Override], config: Any) -> list[str]:
    """Return a line for each override that transformers reads as something else.

    Some classes change a field by another one: ``sliding_window`` is null without ``use_sliding_window``, and a length
    of Phi-3 beside the rotary parameters goes before the one among them.

    Args:
        overrides: What was overridden.
        config: The transformers configuration that was read.
    """
    found = config.to_dict()
    lines = []
    for override in overrides:
        name, *inner = override.key.split(".")
        if name in (*NAMES, *BESIDE):
            other = _rotary_read_otherwise(override, config)
        else:
            read = found.get(config.attribute_map.get(name, name))
            other = {} if inner or read == override.value else {name: read}
        lines += [
            f"--config {override}: transformers reads {key} as {json.dumps(value)}, so it has no effect"
            for key, value in other.items()
        ]
    return lines


def _rotary_read_otherwise(override: Override, config: Any) -> dict[str, Any]:
    """Return those rotary parameters of an override that transformers reads as something else, as it reads them."""
    name, *inner = override.key.split(".")
    wanted = override.value
    for part in reversed([name] if name in BESIDE else inner):
        wanted = {part: wanted}
    read, other = rotary_groups(config), {}
    for kind, fields in groups(wanted or {}).items():
        places = [read.get(kind, {})] if kind else list(read.values())
        for field, value in fields.items():
            if all(place.get(field) != value for place in places):
                other[field] = places[0].get(field)
    return other


def _refuse_unknown(override: Override, settings: Mapping[str, Any]) -> None:
    name = override.key.partition(".")[0]
    if name in OPTIONS:
        raise UsageError(f"--config {override}: a bundle's type is another option.", hint=f"Use {OPTIONS[name]}.")
    known = _known_fields(settings)
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise UsageError(
            f"--config {override}: the configuration of a {settings.get('model_type')} model has no field {name!r} "
            "that counts for a build.",
            hint=(f"Did you mean {', '.join(near)}? " if near else "")
            + "With `target.` or `draft.` in front a field is given to one model of the pair alone.",
        )


def _known_fields(settings: Mapping[str, Any]) -> set[str]:
    """Return the fields of the architecture's own configuration class, and those that the file has besides."""
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    kind = str(settings.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise BundleError(
            f"transformers has no architecture {kind!r}.",
            hint="spectr serves architectures that transformers itself has; it runs no code from a checkpoint.",
        )
    family = CONFIG_MAPPING[kind]
    own = {field.name for field in dataclasses.fields(family)} | set(family.attribute_map)
    older = {SCALING, *BESIDE} if PARAMETERS in own else set()
    shared = {field.name for field in dataclasses.fields(PreTrainedConfig)}  # nothing of a model's computation
    return (own | older | set(settings)) - shared


def _replaced(settings: Mapping[str, Any], override: Override) -> dict[str, Any]:
    """Return settings with one field replaced.

    The two names of the rotary parameters are one field: the name that is given stays, and the other one goes.
    """
    changed = copy.deepcopy(dict(settings))
    name, *inner = override.key.split(".")
    held = next((other for other in NAMES if changed.get(other)), name)
    if name in BESIDE and held != name and (held == PARAMETERS or name in changed[held]):
        _refuse_nested(override, changed[held])
        name, inner = held, [name]
    elif name in NAMES and inner:
        name = held
    elif name in NAMES:
        if override.value is None:
            _refuse_nested(override, changed.get(held))
        _replace_rotary(changed, name, override.value)
        return changed
    _set(changed, [name, *inner], override)
    return changed


def _replace_rotary(settings: dict[str, Any], name: str, value: Any) -> None:
    """Replace rotary parameters as a whole.

    Parameters for types of layers stay beside a card's ``rope_scaling``, which transformers then puts into those of
    full attention.
    """
    old = settings.get(SCALING) or settings.get(PARAMETERS) or {}
    if name == PARAMETERS or not _is_nested(old):
        for other in NAMES:
            settings.pop(other, None)
    settings[name] = _with_base(value, old)


def _with_base(value: Any, old: object) -> Any:
    """Return rotary parameters with the base of the rotation of those that they replace, unless they have their own.

    A file of transformers 5 has the base among the parameters, and what model cards say lacks it.
    """
    if not isinstance(old, Mapping) or _is_nested(old) or _is_nested(value):
        return value
    kept = {key: old[key] for key in BESIDE if key in old}
    return {**kept, **(value or {})} if value is None or isinstance(value, dict) else value


def _is_nested(parameters: object) -> bool:
    return isinstance(parameters, Mapping) and "" not in groups(parameters)


def _refuse_nested(override: Override, parameters: object) -> None:
    if isinstance(parameters, Mapping) and _is_nested(parameters):
        kind = next(iter(groups(parameters)))
        raise UsageError(
            f"--config {override}: the configuration has its rotary parameters by type of layer.",
            hint=f"Give them for one, such as `--config {PARAMETERS}.{kind}.rope_theta=VALUE`.",
        )


def _set(settings: dict[str, Any], names: Sequence[str], override: Override) -> None:
    *outer, last = names
    inside = settings
    for name in outer:
        if inside.get(name) is None:
            inside[name] = {}
        inside = inside[name]
        if not isinstance(inside, dict):
            raise UsageError(
                f"--config {override}: {name} is {inside!r:.60} in config.json and has no fields.",
                hint=f"Replace it as a whole: `--config {name}=VALUE`.",
            )
    inside[last] = _with_base(override.value, inside.get(last)) if names[0] in NAMES else override.value
