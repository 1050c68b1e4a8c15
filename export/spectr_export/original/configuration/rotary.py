"""Whether the parameters of rotary positions in a config.json are sound, before transformers reads them.

transformers takes many of them as they come: a factor that is text or a misspelt name fails when the model is built, or
is left out without a word. It reads ``rope_parameters``, one object or one for each type of layer, and the older name
``rope_scaling``, which model cards still use.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_runtime.errors import BundleError

SCALING, PARAMETERS, ORIGINAL = "rope_scaling", "rope_parameters", "original_max_position_embeddings"
NAMES = (SCALING, PARAMETERS)
# Types that single architectures have beside those of transformers' ROPE_INIT_FUNCTIONS.
OWN_TYPES = ("default", "axial", "ntk_alpha", "xdrope")
# What each type needs. YaRN's factor may be null, for the quotient of the two lengths.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL),
    "longrope": ("short_factor", "long_factor"),
}
# How alike a name must be to a known one to be taken for a misspelling. `max_position_embeddings`, which some files
# have here, is less like `original_max_position_embeddings`.
ALIKE = 0.85

Range = tuple[Callable[[float], bool], str]
FROM_ONE: Range = (lambda value: value >= 1, "a number of at least 1")
POSITIVE: Range = (lambda value: value > 0, "a number above 0")
NOT_NEGATIVE: Range = (lambda value: value >= 0, "a number of at least 0")
NUMBERS: Mapping[str, Range] = {
    "factor": FROM_ONE,
    "rope_theta": POSITIVE,
    "partial_rotary_factor": POSITIVE,
    "low_freq_factor": POSITIVE,
    "high_freq_factor": POSITIVE,
    "beta_fast": POSITIVE,
    "beta_slow": POSITIVE,
    "attention_factor": NOT_NEGATIVE,
    "mscale": NOT_NEGATIVE,
    "mscale_all_dim": NOT_NEGATIVE,
}
LISTS = ("short_factor", "long_factor")


def check_rotary(settings: Mapping[str, Any], path: Path) -> None:
    """Check the rotary parameters of a configuration.

    Args:
        settings: The contents of config.json.
        path: Its path, for messages.

    Raises:
        BundleError: A parameter is missing, misspelt, of a wrong type or outside its range, or two contradict.
    """
    for name in NAMES:
        if (given := settings.get(name)) is None:
            continue
        if not isinstance(given, dict):
            raise _wrong(path, name, given, "an object, such as {'rope_type': 'yarn', 'factor': 4.0}")
        for where, group in groups(given).items():
            _check_group(group, settings, f"{path} gives", ".".join(filter(None, (name, where))))
    _refuse_lost(settings, path)


def groups(parameters: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return rotary parameters by the type of layer that they are for; one name, empty, where they are for all."""
    nested = {name: group for name, group in parameters.items() if isinstance(group, Mapping)}
    return nested or {"": parameters}


def rotary_groups(config: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the rotary parameters of a transformers configuration by the type of layer, as ``groups`` does.

    Architectures without rotary positions have none, whatever is in their files.
    """
    if PARAMETERS not in type(config).__dataclass_fields__:
        return {}
    return groups(getattr(config, PARAMETERS) or {})


def check_reading(config: Any, path: Path) -> None:
    """Check what transformers made of the rotary parameters.

    Args:
        config: The transformers configuration.
        path: The path of its file, for messages.

    Raises:
        BundleError: transformers leaves parameters out, or LongRoPE has not one factor for every frequency.
    """
    found = rotary_groups(config)
    if found:
        _refuse_left_out(config, path)
    for group in found.values():
        if group.get("rope_type") != "longrope":
            continue
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        frequencies = int(head * (group.get("partial_rotary_factor") or 1)) // 2
        for name in LISTS:
            if len(group[name]) != frequencies:
                raise BundleError(
                    f"{path} gives {len(group[name])} numbers as {name} of the rotary positions; the model has "
                    f"{frequencies} frequencies.",
                    hint="Take the list from the checkpoint that the weights belong to.",
                )


def _check_group(group: Mapping[str, Any], settings: Mapping[str, Any], says: str, where: str) -> None:
    _refuse_misspelt(group, says, where)
    kind = _kind(group, says, where)
    for name, problem in _problems(group, kind):
        raise BundleError(f"{says} {where}.{name} as {problem}.", hint=_correct(f"{where}.{name}"))
    given = {name for name, value in {ORIGINAL: settings.get(ORIGINAL), **group}.items() if value is not None}
    if kind == "yarn" and "factor" in group:
        given.add("factor")
    if missing := [name for name in REQUIRED.get(kind, ()) if name not in given]:
        raise BundleError(
            f"{says} {where} the type {kind!r} and no {missing[0]}; {kind} needs {', '.join(REQUIRED[kind])}.",
            hint=_correct(f"{where}.{missing[0]}"),
        )


def _kind(group: Mapping[str, Any], says: str, where: str) -> str:
    """Return the type of scaling; transformers takes ``rope_type`` before the older ``type``."""
    named = {name: group[name] for name in ("rope_type", "type") if name in group}
    for name, value in named.items():
        if not isinstance(value, str):
            raise BundleError(
                f"{says} {where}.{name} as {value!r:.80}; it must be a text, such as 'yarn'.",
                hint=_correct(f"{where}.{name}"),
            )
    if len(set(named.values())) > 1:
        raise BundleError(
            f"{says} {where} two types: rope_type {named['rope_type']!r} and type {named['type']!r}.",
            hint="Leave one of them; they are two names of one field.",
        )
    if "su" in named.values():
        raise BundleError(
            f"{says} {where} the type 'su', which transformers calls 'longrope' today.",
            hint=f"Change it there, or build with `--config {where}.{next(iter(named))}=longrope`.",
        )
    kind: str = next(iter(named.values()), "default")
    left_out = [name for name in ("factor", *LISTS) if group.get(name) not in (None, 1)]
    if kind == "default" and left_out:
        raise BundleError(
            f"{says} {where} a {left_out[0]} and no type of scaling; transformers would leave the {left_out[0]} out.",
            hint=f"Give rope_type there, or build with `--config {where}.rope_type=yarn` (or another type).",
        )
    return kind


def _refuse_misspelt(group: Mapping[str, Any], says: str, where: str) -> None:
    from transformers.modeling_rope_utils import RopeParameters

    known = {"type", *RopeParameters.__annotations__}
    for name in sorted(group.keys() - known):
        if near := difflib.get_close_matches(name, known, 1, ALIKE):
            raise BundleError(
                f"{says} {where}.{name}, which transformers does not read; it reads {near[0]}.",
                hint=f"Correct the name there, or build with `--config {where}.{near[0]}=VALUE` when it is taken out.",
            )


def _problems(group: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with single parameters: the name, and words to follow it."""
    for name, (holds, words) in NUMBERS.items():
        value = group.get(name)
        if value is not None and not (_is_number(value) and holds(value)):
            yield name, f"{value!r:.80}; it must be {words}"
    original = group.get(ORIGINAL)
    if original is not None and (type(original) is not int or original < 1):
        yield ORIGINAL, f"{original!r:.80}; it must be a whole number of tokens, at least 1"
    for name in LISTS:
        value = group.get(name)
        if value is not None and not (isinstance(value, list) and all(_is_number(one) and one > 0 for one in value)):
            yield name, f"{value!r:.80}; it must be a list of numbers above 0, one for each frequency"
    low, high = group.get("low_freq_factor"), group.get("high_freq_factor")
    if kind == "llama3" and low is not None and high is not None and not low < high:
        yield "low_freq_factor", f"{low} and high_freq_factor as {high}; the former must be the lower"


def _refuse_left_out(config: Any, path: Path) -> None:
    """Refuse parameters for all layers where transformers reads those of each type of layer, and the reverse."""
    parameters = getattr(config, PARAMETERS)
    read = config.nested_rope_parameter_keys(parameters)
    nested = [name for name, value in parameters.items() if isinstance(value, Mapping)]
    left_out = [name for name in parameters if name not in nested] if read else nested
    if left_out:
        reads, remedy = (
            (f"each type of layer ({', '.join(read)})", f"into {PARAMETERS}.{read[0]}")
            if read
            else ("all layers alike", f"of {PARAMETERS}.{nested[0]} into {PARAMETERS} itself")
        )
        raise BundleError(
            f"{path} gives {', '.join(left_out)} among the rotary parameters; transformers reads those of a "
            f"{config.model_type} model for {reads}.",
            hint=f"Put what is meant {remedy}.",
        )


def _refuse_lost(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse ``rope_scaling`` beside ``rope_parameters`` where transformers, which reads the former, loses something.

    A model card's ``rope_scaling`` added to a file that transformers 5 wrote would take away ``rope_theta``.
    """
    scaling, parameters = settings.get(SCALING), settings.get(PARAMETERS)
    if not scaling or not parameters or "" not in groups(parameters):
        return
    lost = {
        name: value
        for name, value in parameters.items()
        if name not in scaling and name not in ("type", "rope_type") and settings.get(name) != value
    }
    if lost:
        name, value = next(iter(lost.items()))
        merged = json.dumps({**lost, **scaling})
        raise BundleError(
            f"{path} has both {SCALING} and {PARAMETERS}; transformers reads {SCALING} alone, and {name} {value} of "
            f"{PARAMETERS} is lost.",
            hint=f"Leave one of them, or build with `--config {PARAMETERS}='{merged}'`.",
        )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _wrong(path: Path, name: str, value: object, words: str) -> BundleError:
    return BundleError(f"{path} gives {name} as {value!r:.80}; it must be {words}, or null.", hint=_correct(name))


def _correct(name: str) -> str:
    """Return what to do about a field, in the file or at the build."""
    return f"Correct it there, or build with `--config {name}=VALUE`."
