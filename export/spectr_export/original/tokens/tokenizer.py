"""Loads the tokenizer of a checkpoint, and sees to it that texts are read as its file says."""

from __future__ import annotations

import importlib.util
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from spectr_export.console import Say
from spectr_export.original.settings import read_settings
from spectr_export.original.tokens.probe import Reading, difference, read_with, read_with_file, texts_for
from spectr_runtime.errors import BundleError, first_line

FAST = "tokenizer.json"  # the file from which the tokenizers library makes a tokenizer by itself
SETTINGS = "tokenizer_config.json"
FILES = (SETTINGS, FAST, "special_tokens_map.json", "added_tokens.json")
TIKTOKEN = re.compile(rb"[A-Za-z0-9+/=]+ \d+\r?\n")  # the first line of a vocabulary in tiktoken's form
PLAIN_CLASS = "PreTrainedTokenizerFast"


def load_tokenizer(folder: Path, say: Say) -> Any:
    """Load the tokenizer in a model's folder.

    For some models transformers builds the tokenizer anew by its class's own rules, and takes only the vocabulary from
    ``tokenizer.json``. Where these rules are not those of the file, texts are split differently than in the training,
    without an error: so with the DeepSeek-R1 distillations, which name Qwen's architecture and Llama's class. Therefore
    what the tokenizer makes of some texts is compared with what the file's own makes of them, and where they differ the
    file is loaded as it is. A setting of ``tokenizer_config.json`` may change what is made of a text, and rightly:
    ``add_prefix_space`` is applied to the file before it is compared, and any other setting then changes the file's own
    tokenizer as well.

    Args:
        folder: The checkpoint.
        say: Takes a line of progress.

    Raises:
        BundleError: A file is malformed, transformers cannot load a tokenizer without running code from the folder or
            without a package that is not installed, or the class reads its file in another way than the file says.
    """
    for name in FILES:
        if (folder / name).is_file():
            read_settings(folder / name)
    _require_package(folder)
    tokenizer = _load(folder)
    return _honouring_file(tokenizer, folder, say) if (folder / FAST).is_file() else tokenizer


def _load(folder: Path, *, plain: bool = False) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    family: Any = PreTrainedTokenizerFast if plain else AutoTokenizer
    try:
        return family.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizer files are parsed by several libraries, each with its own errors
        raise BundleError(
            f"transformers cannot load a tokenizer from {folder}: {first_line(error)}",
            hint="Both models need their tokenizer files beside config.json.",
        ) from error


def _require_package(folder: Path) -> None:
    """Refuse a vocabulary that only a package which is not installed can read.

    transformers itself names tiktoken for any such file.
    """
    found = sorted(folder.glob("*.model"))
    if (folder / FAST).is_file() or not found:
        return
    with found[0].open("rb") as file:
        package = "tiktoken" if TIKTOKEN.match(file.read(1000)) else "sentencepiece"
    if importlib.util.find_spec(package) is None:
        raise BundleError(
            f"{found[0]} is a vocabulary that only {package} can read, which is not installed.",
            hint=f"Install it with `pip install 'spectr[{package}]'`; the bundle will not need it.",
        )


def _honouring_file(tokenizer: Any, folder: Path, say: Say) -> Any:
    """Return a tokenizer that reads texts as the folder's file says: the given one, or the file as it is."""
    from tokenizers import Tokenizer

    name = type(tokenizer).__name__
    try:
        stored = Tokenizer.from_str(_with_prefix_setting(folder))
    except Exception as error:  # the library raises Exception itself
        raise BundleError(
            f"{folder / FAST} is no file of the tokenizers library: {error}", hint="Get it again."
        ) from error
    stored.no_padding()
    stored.no_truncation()
    special = [token.content for _, token in sorted(stored.get_added_tokens_decoder().items())]
    texts = texts_for(special)
    expected, found = read_with_file(stored, texts), read_with(tokenizer, texts)
    differs = difference(found, expected)
    if differs is None:
        return tokenizer
    plain = _load(folder, plain=True)
    as_file = read_with(plain, texts)
    if difference(as_file, expected) is None and _around_texts(plain) == _around_texts(tokenizer):
        say(f"tokenizer: {FAST} is read as it is; {name} would make of {differs[0]!r:.40} {differs[1]}")
        return plain
    if difference(found, as_file) is None:
        return tokenizer
    raise BundleError(
        f"{name} does not read {folder / FAST} as the file says: of {differs[0]!r:.60} it makes {differs[1]}, the file "
        f"{differs[2]}.",
        hint=f"Set tokenizer_class to {PLAIN_CLASS} in {SETTINGS} if the file is right, or save the tokenizer again.",
    )


def _around_texts(tokenizer: Any) -> list[int]:
    """Return the tokens that a tokenizer puts around a text."""
    whole, inner = (tokenizer("x", add_special_tokens=added)["input_ids"] for added in (True, False))
    return [token for token in whole if token not in inner]


def _with_prefix_setting(folder: Path) -> str:
    """Return the contents of the tokenizer's file, with add_prefix_space as the settings beside it give it."""
    state = read_settings(folder / FAST)
    settings = read_settings(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    wanted = settings.get("add_prefix_space")
    return json.dumps(_prefixed(state, wanted) if isinstance(wanted, bool) else state)


def _prefixed(part: Any, wanted: bool) -> Any:
    """Return a part of a tokenizer's file that puts a space before a text, or does not.

    Byte-level splits have a setting for it. Metaspace has one too, or a normaliser prepends the space in its place;
    then the decoder strips it.
    """
    if isinstance(part, list):
        without = [] if wanted else [entry for entry in part if _adds_prefix(entry)]
        return [_prefixed(entry, wanted) for entry in part if entry not in without]
    if not isinstance(part, dict):
        return part
    changed = {name: value if name == "vocab" else _prefixed(value, wanted) for name, value in part.items()}
    if "add_prefix_space" in part:
        changed["add_prefix_space"] = wanted
    if part.get("type") == "Metaspace" and (part.get("prepend_scheme") == "never") == wanted:
        changed["prepend_scheme"] = "first" if wanted else "never"
    return changed


def _adds_prefix(entry: Any) -> bool:
    kind = entry.get("type") if isinstance(entry, dict) else None
    return kind == "Prepend" or (kind == "Strip" and entry.get("start") == 1)


def refuse_changed_by_saving(tokenizer: Any) -> None:
    """Refuse a tokenizer that reads or writes texts in another way once it was saved to a bundle and loaded from it.

    Raises:
        BundleError: Saved and loaded again it differs, or it cannot be saved or loaded again.
    """
    with tempfile.TemporaryDirectory() as folder:
        _save(tokenizer, folder)
        again = _load(Path(folder))
    name, special = type(tokenizer).__name__, [str(token) for token in tokenizer.added_tokens_decoder.values()]
    texts = texts_for(special)
    differs = difference(_as_the_runtime(tokenizer, texts), _as_the_runtime(again, texts)) or difference(
        read_with(tokenizer, texts), read_with(again, texts)
    )
    if differs is None and tokenizer.chat_template == again.chat_template:
        return
    what = f"of {differs[0]!r:.60} it made {differs[1]}, and makes {differs[2]}" if differs else "its chat template"
    raise BundleError(
        f"Saved to the bundle and loaded again, {name} is another tokenizer: {what}.",
        hint=f"Set tokenizer_class to {PLAIN_CLASS} in {SETTINGS}, or save the tokenizer with this transformers first.",
    )


def _save(tokenizer: Any, folder: str) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # names and texts of chat templates become files, and may be anything
        raise BundleError(
            f"transformers cannot save the tokenizer to the bundle: {first_line(error)}",
            hint="Each of its chat templates needs a name that can be a file's, and a text.",
        ) from error


def _as_the_runtime(tokenizer: Any, texts: tuple[str, ...]) -> list[Reading]:
    """Return what a tokenizer makes of texts with the tokens that it puts around them, decoded without these."""

    def read(text: str) -> Reading:
        ids = tokenizer(text, verbose=False)["input_ids"]
        names = tokenizer.convert_ids_to_tokens(ids)
        return Reading(text, tuple(ids), tuple(map(str, names)), tokenizer.decode(ids, skip_special_tokens=True))

    return [read(text) for text in texts]
