"""Preparation of a build: the pair is fetched and checked, and everything is settled that needs no weights.

``prepare`` takes the options of a build (``BuildOptions``) and returns the pair that is built (``Prepared``).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectr_export.checks.parity import SMALLEST_CAPACITY
from spectr_export.console import Say
from spectr_export.inspection import describe_sampling
from spectr_export.member import Member
from spectr_export.original.checkpoint import check_weights
from spectr_export.original.generation import GENERATION, find_end_tokens, foreign_settings, own_sampling
from spectr_export.original.model import load_config, longest_text
from spectr_export.original.refusal import refuse_unsupported
from spectr_export.original.source import fetch
from spectr_export.original.tokens.chat_template import try_templates
from spectr_export.original.tokens.tokenizer import load_tokenizer, refuse_changed_by_saving
from spectr_export.original.tokens.vocabulary import refuse_other_tokenizer, remarks, share_vocabulary
from spectr_export.storing.precision import FLOAT32, Precision
from spectr_export.text import Texts, read_text
from spectr_runtime.bundle import ROLES, Limits, Role, Vocabulary
from spectr_runtime.errors import EngineError, UsageError

TOKENS_PER_CALL = 256
# The largest capacity that is chosen without --capacity. A run reserves the whole capacity for every row, and many
# models allow far longer texts than most runs need.
LARGEST_DEFAULT_CAPACITY = 4096
TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")

# Values of --draft that stand for a quantised copy of the target; a folder of that name is written with a path: ./int4.
COPIES = ("int8", "int4", "fp8")


@dataclasses.dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of a build.

    Attributes:
        target: Folder or hub id of the target.
        draft: Folder or hub id of the draft; ``int8``, ``int4`` or ``fp8`` for a copy of the target in that precision.
        capacity: Longest text in tokens; None takes the longest text of both models, up to
            ``LARGEST_DEFAULT_CAPACITY``.
        precision: How the models are stored.
        text: File of text to measure and to round by; None for texts that come with Python.
    """

    target: str
    draft: str
    capacity: int | None = None
    precision: Precision = FLOAT32
    text: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A pair of models that fit together, with everything that is known before their weights are read.

    Attributes:
        members: The source and the precision of each model.
        configs: The transformers configuration of each model.
        limits: The limits of the bundle.
        tokenizer: The target's tokenizer, which the draft shares.
        vocabulary: The tokens that are written.
        sampling: The target's own sampling parameters.
        texts: The texts to measure and to round by.
        versions: Versions of the tools that build.
    """

    members: Mapping[Role, Member]
    configs: Mapping[Role, Any]
    limits: Limits
    tokenizer: Any
    vocabulary: Vocabulary
    sampling: Mapping[str, float]
    texts: Texts
    versions: Mapping[str, str]


def prepare(options: BuildOptions, say: Say) -> Prepared:
    """Fetch a pair and check that it fits together.

    Args:
        options: The options of the build.
        say: Takes a line of progress.

    Raises:
        UsageError: The capacity is out of range, or an option is wrong.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, or the pair does not fit together.
    """
    versions = _versions()
    precisions = _precisions(options.draft, options.precision)
    text = None if options.text is None else read_text(options.text)
    folders: dict[Role, Path] = {"target": fetch(options.target)}
    folders["draft"] = folders["target"] if options.draft in COPIES else fetch(options.draft)
    configs = {role: load_config(folders[role]) for role in ROLES}
    limits = Limits(_choose_capacity(configs, options.capacity, say), TOKENS_PER_CALL)
    for role in ROLES:
        refuse_unsupported(configs[role], limits.capacity)
    for folder in dict.fromkeys(folders.values()):
        check_weights(folder, say)
    tokenizer, vocabulary = _share_tokenizer(folders, configs, say)
    return Prepared(
        members={role: Member(role, folders[role], precisions[role]) for role in ROLES},
        configs=configs,
        limits=limits,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        sampling=_own_sampling(folders["target"], say),
        texts=Texts.of(text, tokenizer, min(config.vocab_size for config in configs.values())),
        versions=versions,
    )


def _share_tokenizer(folders: Mapping[Role, Path], configs: Mapping[Role, Any], say: Say) -> tuple[Any, Vocabulary]:
    """Return the target's tokenizer and the vocabulary that is written with it, once the draft is known to share it."""
    target = load_tokenizer(folders["target"], say)
    refuse_changed_by_saving(target)
    draft = target if folders["draft"] == folders["target"] else load_tokenizer(folders["draft"], say)
    refuse_other_tokenizer(target, draft)
    widths: dict[Role, int] = {role: configs[role].vocab_size for role in ROLES}
    end_tokens = find_end_tokens(folders["target"], configs["target"], target, widths["target"])
    vocabulary = share_vocabulary(widths, target, draft, end_tokens)
    for line in (*remarks(widths, target, draft), *try_templates(target)):
        say(line)
    return target, vocabulary


def _own_sampling(folder: Path, say: Say) -> dict[str, float]:
    sampling = own_sampling(folder)
    if sampling:
        say(f"target: its own sampling is {describe_sampling(sampling)}")
    if foreign := foreign_settings(folder):
        say(f"target: {', '.join(foreign)} of {GENERATION}: left out, because spectr has nothing like it")
    return sampling


def _versions() -> dict[str, str]:
    """Return the versions of the tools that make and check a bundle.

    They are asked of the modules, because ONNX Runtime's module comes in several distributions.
    """
    try:
        tools = {tool: str(importlib.import_module(tool).__version__) for tool in TOOLS}
    except ImportError as error:
        raise EngineError(
            f"{error.name} is needed to build a bundle: {error}.", hint="Install it with `pip install 'spectr[cpu]'`."
        ) from error
    return {"spectr": importlib.metadata.version("spectr"), **tools, "python": platform.python_version()}


def _choose_capacity(configs: Mapping[Role, Any], capacity: int | None, say: Say) -> int:
    allowed = min(longest_text(config) for config in configs.values())
    if capacity is None:
        capacity = min(allowed, LARGEST_DEFAULT_CAPACITY)
        more = f"; --capacity allows up to {allowed}" if allowed > capacity else ""
        say(f"capacity {capacity} tokens per text{more}")
    if not SMALLEST_CAPACITY <= capacity <= allowed:
        raise UsageError(
            f"A capacity of {capacity} tokens is not possible; it must be {SMALLEST_CAPACITY} to {allowed}, "
            "the longest text that both models were made for.",
        )
    return capacity


def _precisions(draft: str, precision: Precision) -> dict[Role, Precision]:
    if draft not in COPIES:
        return {"draft": precision, "target": precision}
    copy = dataclasses.replace(precision, quantisation=draft)
    if copy == precision:
        raise UsageError(
            f"A draft in {draft} of a target in {draft} is the target itself.",
            hint="Leave the target as it is, or name a smaller model as draft.",
        )
    return {"draft": copy, "target": precision}
