"""Preparation of a build: the models are fetched and checked, and everything is settled that needs no weights.

``prepare`` takes the options of a build (``BuildOptions``) and returns the models that are built (``Prepared``).
"""

# N tokens that a draft scores.
from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_export.checks.parity import SMALLEST_CAPACITY
from spectr_export.console import Say
from spectr_export.heads.checkpoint import is_head, take_head
from spectr_export.heads.member import HeadMember
from spectr_export.inspection import describe_sampling
from spectr_export.member import Member
from spectr_export.original.checkpoint import check_weights
from spectr_export.original.configuration.overrides import Override, overridden, parse_overrides, without_effect
from spectr_export.original.configuration.reach import Reach, find_reach
from spectr_export.original.formats.gguf import is_gguf
from spectr_export.original.formats.scheme import quantisation_settings
from spectr_export.original.generation import GENERATION, find_end_tokens, foreign_settings, own_sampling
from spectr_export.original.model import load_config
from spectr_export.original.refusal import refuse_unsupported
from spectr_export.original.scratch import Scratch
from spectr_export.original.source import fetch, fetch_pickle
from spectr_export.original.tokens.chat_template import try_templates
from spectr_export.original.tokens.chosen import find_chosen
from spectr_export.original.tokens.tokenizer import load_tokenizer, refuse_changed_by_saving
from spectr_export.original.tokens.vocabulary import refuse_other_tokenizer, remarks, share_vocabulary
from spectr_export.storing.precision import FLOAT32, KEPT, QUANTISATIONS, Precision
from spectr_export.text import Texts, read_text
from spectr_runtime.bundle import Limits, Role, Vocabulary
from spectr_runtime.errors import BundleError, EngineError, UsageError

TOKENS_PER_CALL = 256
# The largest capacity that is chosen without --capacity. A run reserves the whole capacity for every row, and many
# models allow far longer texts than most runs need.
LARGEST_DEFAULT_CAPACITY = 4096
TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")

# Values of --draft that stand for a quantised copy of the target; a folder of that name is written with a path: ./int4.
COPIES = QUANTISATIONS[1:]


@dataclasses.dataclass(frozen=True, slots=True)
class BuildOptions:
    """The options of a build.

    Attributes:
        target: Folder or hub id of the target.
        draft: Folder or hub id of the draft, a model of its own or a head on the target; ``int8``, ``int4`` or ``fp8``
            for a copy of the target in that precision; None for no draft.
        capacity: Longest text in tokens; None takes the longest text that every model was made for, up to
            ``LARGEST_DEFAULT_CAPACITY``.
        precision: How the models are stored.
        text: File of text to measure and to round by; None for texts that come with Python.
        config: Fields of config.json that are replaced, as ``parse_overrides`` reads them.
    """

    target: str
    draft: str | None = None
    capacity: int | None = None
    precision: Precision = FLOAT32
    text: Path | None = None
    config: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A pair of models that fit together, or a target alone, with all that is known before their weights are read.

    Attributes:
        members: The source and the precision of each model.
        configs: The transformers configuration of each model.
        limits: The limits of the bundle.
        tokenizer: The target's tokenizer, which a draft shares.
        vocabulary: The tokens that are written.
        sampling: The target's own sampling parameters.
        texts: The texts to measure and to round by.
        versions: Versions of the tools that build.
        overrides: The fields of each model's config.json that were replaced, with their values.
        head: The draft if it is a head on the target; it is none of the members then.
        chosen_N: The target's ids of the tokens that a draft scores that is a model of its own; int64. None for the
            first ones in order.
    """

    members: Mapping[Role, Member]
    configs: Mapping[Role, Any]
    limits: Limits
    tokenizer: Any
    vocabulary: Vocabulary
    sampling: Mapping[str, float]
    texts: Texts
    versions: Mapping[str, str]
    overrides: Mapping[Role, Mapping[str, Any]]
    head: HeadMember | None = None
    chosen_N: torch.Tensor | None = None

    @property
    def has_draft(self) -> bool:
        """Whether anything drafts for the target."""
        return self.head is not None or "draft" in self.members


def prepare(options: BuildOptions, scratch: Scratch, say: Say) -> Prepared:
    """Fetch a pair and check that it fits together, or a target alone.

    Args:
        options: The options of the build.
        scratch: Takes files that stand for those of a checkpoint; it is kept until the models are built.
        say: Takes a line of progress.

    Raises:
        UsageError: The capacity is out of range, or an option is wrong.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, or the pair does not fit together.
    """
    versions = _versions()
    precisions = _precisions(options.draft, options.precision)
    text = None if options.text is None else read_text(options.text)
    overrides = _overrides(options, tuple(precisions))
    folders = _fetch(options, overrides, scratch, say)
    found = take_head(folders, overrides, scratch)
    members = {role: Member(role, folder, _kept(folder, precisions[role])) for role, folder in folders.items()}
    configs = {role: _read_config(folders[role], overrides[role]) for role in members}
    _tell_config(configs, overrides, say)
    limits = Limits(_choose_capacity(configs, options.capacity, say), TOKENS_PER_CALL)
    for config in (*configs.values(), *([found.config] if found else [])):
        refuse_unsupported(config, limits.capacity)
    head = None if found is None else HeadMember.of(found, members["target"], configs["target"])
    if head is not None:
        members["target"] = dataclasses.replace(members["target"], features=head.features)
    for folder in dict.fromkeys(folders.values()):
        check_weights(folder, say)
    chosen_N = find_chosen(folders, configs)
    tokenizer, vocabulary = _share_tokenizer(folders, configs, chosen_N, say)
    return Prepared(
        members=members,
        configs=configs,
        limits=limits,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        sampling=_own_sampling(folders["target"], say),
        texts=Texts.of(text, tokenizer, min(config.vocab_size for config in configs.values())),
        versions=versions,
        overrides={role: {one.key: one.value for one in given} for role, given in overrides.items() if given},
        head=head,
        chosen_N=chosen_N,
    )


def _fetch(
    options: BuildOptions, overrides: Mapping[Role, Sequence[Override]], scratch: Scratch, say: Say
) -> dict[Role, Path]:
    """Return the folder of each model, the draft's first; a draft that is a copy of its target has the target's."""
    target = overridden(fetch(options.target, scratch, say), overrides["target"], scratch)
    if options.draft is None:
        return {"target": target}
    if options.draft in COPIES:
        return {"draft": target, "target": target}
    draft = fetch(options.draft, scratch, say)
    if is_head(draft):
        fetch_pickle(options.draft, draft)
    else:
        draft = overridden(draft, overrides["draft"], scratch)
    return {"draft": draft, "target": target}


def _overrides(options: BuildOptions, roles: Sequence[Role]) -> dict[Role, list[Override]]:
    """Return the overrides of each model that is built; a draft that is a copy of its target has the target's."""
    given = parse_overrides(options.config)
    own = [one for one in given if one.role == "draft"]
    if own and options.draft in (None, *COPIES):
        what = (
            f"a draft in {options.draft} is a copy of the target and has its configuration"
            if options.draft
            else ("the bundle has no draft")
        )
        raise UsageError(f"--config draft.{own[0]}: {what}.", hint="Leave `draft.` out.")
    if options.draft in COPIES:
        return dict.fromkeys(roles, given)
    return {role: [one for one in given if one.role in (role, None)] for role in roles}


def _read_config(folder: Path, overrides: Sequence[Override]) -> Any:
    try:
        return load_config(folder)
    except BundleError as error:
        if overrides:
            error.hint += f" It was read with {', '.join(f'--config {one}' for one in overrides)}."
        raise


def _tell_config(configs: Mapping[Role, Any], overrides: Mapping[Role, Sequence[Override]], say: Say) -> None:
    for role, config in configs.items():
        for line in without_effect(overrides[role], config):
            say(f"{role}: {line}")
        reach = find_reach(config)
        if reach.scaling:
            say(f"{role}: made for texts of {reach.tokens} tokens by rope scaling ({reach.scaling})")


def _share_tokenizer(
    folders: Mapping[Role, Path], configs: Mapping[Role, Any], chosen_N: torch.Tensor | None, say: Say
) -> tuple[Any, Vocabulary]:
    """Return the target's tokenizer and the vocabulary that is written with it, once a draft is known to share it."""
    target = load_tokenizer(folders["target"], say)
    refuse_changed_by_saving(target)
    draft = None
    if "draft" in folders:
        draft = target if folders["draft"] == folders["target"] else load_tokenizer(folders["draft"], say)
        refuse_other_tokenizer(target, draft)
    widths: dict[Role, int] = {role: config.vocab_size for role, config in configs.items()}
    end_tokens = find_end_tokens(folders["target"], configs["target"], target, widths["target"])
    chosen = None if chosen_N is None else chosen_N.tolist()
    vocabulary = share_vocabulary(widths, target, draft, end_tokens, chosen)
    for line in (*remarks(widths, target, draft, chosen), *try_templates(target)):
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
    reaches = {role: find_reach(config) for role, config in configs.items()}
    allowed = min(reach.tokens for reach in reaches.values())
    if capacity is None:
        capacity = min(allowed, LARGEST_DEFAULT_CAPACITY)
        more = f"; --capacity allows up to {allowed}" if allowed > capacity else ""
        say(f"capacity {capacity} tokens per text{more}")
    if not SMALLEST_CAPACITY <= capacity <= allowed:
        raise UsageError(
            f"A capacity of {capacity} tokens is not possible; it must be {SMALLEST_CAPACITY} to {allowed}, "
            "the longest text that the bundle's models were made for.",
            hint=_longer(reaches, capacity),
        )
    return capacity


def _longer(reaches: Mapping[Role, Reach], capacity: int) -> str:
    """Return what to do so that texts may be longer: for each model that does not allow a capacity, its remedy."""
    roles: dict[Reach, list[Role]] = {}
    for role, reach in reaches.items():
        if reach.tokens < capacity:
            roles.setdefault(reach, []).append(role)
    return " ".join(f"The {' and the '.join(short)}: {reach.advice()}" for reach, short in roles.items())


def _precisions(draft: str | None, precision: Precision) -> dict[Role, Precision]:
    """Return the precision of each model that is built, the draft first."""
    if draft is None:
        return {"target": precision}
    if draft not in COPIES:
        return {"draft": precision, "target": precision}
    copy = dataclasses.replace(precision, quantisation=draft)
    if copy == precision:
        raise UsageError(
            f"A draft in {draft} of a target in {draft} is the target itself.",
            hint="Leave --draft out, leave --quantise out, or name a smaller model as draft.",
        )
    return {"draft": copy, "target": precision}


def _kept(folder: Path, precision: Precision) -> Precision:
    """Return the precision with which a model is stored: a quantised checkpoint stays in its blocks unless asked."""
    quantised = is_gguf(folder) or quantisation_settings(folder) is not None
    keeps = quantised and precision.quantisation == "none"
    return dataclasses.replace(precision, quantisation=KEPT) if keeps else precision
