"""The tokenizer and the vocabulary that draft and target share, and the tokens that end a text."""

# V vocabulary: token ids 0 .. V - 1.
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectr_runtime.bundle import Vocabulary
from spectr_runtime.errors import BundleError, first_line

FAST = "tokenizer.json"  # the file from which the tokenizers library makes a tokenizer by itself
# A text with much in which tokenizers differ: accents composed and not, digits, white space, code, other scripts, an
# emoji.
PROBE = "Naïve café №42 cafe\u0301:\n\n\tdef f(x):  return x**2.5  # 你好, Привет 🙂 don't—WON'T 00012345\r\n"


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer in a model's folder.

    For some models transformers builds the tokenizer anew by its class's own rules, and takes only the vocabulary from
    ``tokenizer.json``. Where these rules are not those of the file, texts are split differently than in the training,
    without an error: so with the DeepSeek-R1 distillations, which name Qwen's architecture and Llama's class. Therefore
    the encoding of a probe is compared with the file's own, and where it differs the file is loaded as it is. A setting
    of ``tokenizer_config.json``, such as ``add_prefix_space``, may change the encoding too, and rightly: it then
    changes that of the loaded file as well.

    Raises:
        BundleError: transformers cannot load a tokenizer without running code from the folder.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if _encodes_as_stored(tokenizer, folder):
            return tokenizer
        as_stored: Any = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        return as_stored if _encodes_as_stored(as_stored, folder) else tokenizer
    except Exception as error:  # tokenizer files are parsed by several libraries, each with its own errors
        raise BundleError(
            f"transformers cannot load a tokenizer from {folder}: {first_line(error)}",
            hint="Both models need their tokenizer files beside config.json.",
        ) from error


def _encodes_as_stored(tokenizer: Any, folder: Path) -> bool:
    """Return whether a tokenizer encodes the probe as the folder's file does; true where there is no such file."""
    from tokenizers import Tokenizer

    path = folder / FAST
    if not path.is_file():
        return True
    stored = Tokenizer.from_file(str(path))
    stored.no_padding()
    stored.no_truncation()
    return _encode(tokenizer) == stored.encode(PROBE, add_special_tokens=False).ids


def refuse_other_tokenizer(target: Any, draft: Any) -> None:
    """Refuse a draft whose token ids mean something else than the target's.

    The ids, the texts and the special tokens have to be the same. The special token that ends a text or pads it may be
    another one, so that a base model can draft for an instruct model.

    Args:
        target: The target's tokenizer.
        draft: The draft's tokenizer.

    Raises:
        BundleError: The tokenizers differ; the message gives the first difference.
    """
    for part, difference in (
        ("vocabularies", _difference(target.get_vocab(), draft.get_vocab())),
        ("special tokens", _difference(_special(target), _special(draft))),
        ("encodings of a probe text", _first_difference(_encode(target), _encode(draft))),
    ):
        if difference:
            raise BundleError(
                f"Draft and target do not share a tokenizer; their {part} differ: {difference}.",
                hint="Choose a draft of the same family as the target.",
            )


def common_vocabulary(widths: Mapping[str, int], tokenizer: Any, end_tokens: tuple[int, ...]) -> Vocabulary:
    """Return the token ids that both models score; further logits of the wider model are padding.

    Args:
        widths: Width of the logits of each model.
        tokenizer: The shared tokenizer.
        end_tokens: Ids that end a text.

    Raises:
        BundleError: A model cannot score every token of the tokenizer.
    """
    needed = max(tokenizer.get_vocab().values()) + 1
    for role, width in widths.items():
        if width < needed:
            raise BundleError(
                f"The {role} scores {width} tokens; the tokenizer has ids up to {needed - 1}.",
                hint="Use the tokenizer that the model was trained with.",
            )
    return Vocabulary(min(widths.values()), end_tokens)


def find_end_tokens(folder: Path, config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return all ids that end a text by generation_config.json, config.json or the tokenizer, sorted."""
    generation = folder / "generation_config.json"
    settings = json.loads(generation.read_text(encoding="utf-8")) if generation.is_file() else {}
    named = (settings.get("eos_token_id"), getattr(config, "eos_token_id", None), tokenizer.eos_token_id)
    ids = [token for value in named for token in (value if isinstance(value, list) else [value])]
    return tuple(sorted({int(token) for token in ids if token is not None}))


def _special(tokenizer: Any) -> dict[str, int]:
    return {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}


def _encode(tokenizer: Any) -> list[int]:
    return list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])


def _difference(target: Mapping[str, int], draft: Mapping[str, int]) -> str:
    different = sorted(token for token in target.keys() | draft.keys() if target.get(token) != draft.get(token))
    if not different:
        return ""
    example = different[0]
    return (
        f"{len(different)} tokens, for instance {example!r} is id {target.get(example, 'none')} in the target "
        f"and {draft.get(example, 'none')} in the draft"
    )


def _first_difference(target: list[int], draft: list[int]) -> str:
    return "" if target == draft else f"{target[:8]}... ({len(target)} ids) and {draft[:8]}... ({len(draft)} ids)"
