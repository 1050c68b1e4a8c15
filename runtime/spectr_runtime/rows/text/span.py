"""How much text a token stands for at most, so that a text that cannot fit is refused without being tokenised.

Most tokenizers of language models lose no character: each step of theirs keeps or replaces what it finds, their
vocabulary spells every byte of UTF-8, and so each character of a text stands in one of its tokens. Then no token stands
for more characters than its name has. Two things may add to that, and are counted:

- Composition (NFC, NFKC) makes one character of up to four. (None of them decomposes into more: UAX 15.)
- Added tokens may take the white space around them (``lstrip``, ``rstrip``), as much as there is.

Other tokenizers have no such bound. One unknown token may stand for any number of words (WordPiece, WordLevel) or of
letters that follow each other (``fuse_unk``), and a step may drop characters. Only the steps that are named here are
known to drop none. Of tokenizers that have another one nothing is said, and their texts are tokenised whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

# White space of Python, and so all that Unicode and the tokenizers library call so.
WHITE = "".join(filter(str.isspace, map(chr, range(0x3001))))
BYTES = (*range(0xC0), *range(0xC2, 0xF5))  # those that UTF-8 has
COMPOSED = 4  # characters that normalisation may make one of
# Steps that lose no character, each with the number of characters that it may make one of.
NORMALIZERS = {"NFC": COMPOSED, "NFKC": COMPOSED, "NFD": 1, "NFKD": 1, "Prepend": 1, "ByteLevel": 1}
PRE_TOKENIZERS = {"ByteLevel": 1, "Metaspace": 1, "Digits": 1}
SPLITS = {"Split", "Punctuation"}  # these lose none unless they are told to remove what they split at


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """How much text a token stands for at most.

    Attributes:
        characters: The number of characters.
        counts_white: Whether white space is among them; otherwise a token may stand for any amount of it besides.
    """

    characters: int
    counts_white: bool = True

    def size(self, text: str) -> int:
        """Return the number of characters of a text that count."""
        return len(text) if self.counts_white else len(text) - sum(map(text.count, WHITE))


def span_of(tokenizer: Any) -> Span | None:
    """Return how much text a token of a tokenizer stands for at most; None if there is no bound or it is not known."""
    if not tokenizer.is_fast:
        return None
    backend = tokenizer.backend_tokenizer
    normalizers, splits = _steps(backend.normalizer, "normalizers"), _steps(backend.pre_tokenizer, "pretokenizers")
    joined = 1
    for joins in (*map(_joined_by_normalizer, normalizers), *map(_joined_by_split, splits)):
        if joins is None:
            return None
        joined *= joins
    # A normaliser behind the bytes could change them again.
    byte_level = any(step["type"] == "ByteLevel" for step in (*normalizers[-1:], *splits))
    if not _spells_all(backend, byte_level=byte_level):
        return None
    added = tokenizer.added_tokens_decoder.values()
    names = [*tokenizer.get_vocab(), *(_normalized(backend.normalizer, token.content) for token in added)]
    return Span(joined * max(map(len, names)), not any(token.lstrip or token.rstrip for token in added))


def _steps(part: Any, within: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or a pre-tokenizer, one after the other, as its file describes them."""
    if part is None:
        return []

    def flat(step: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [one for inner in step[within] for one in flat(inner)] if step["type"] == "Sequence" else [step]

    return flat(json.loads(part.__getstate__()))


def _joined_by_normalizer(step: Mapping[str, Any]) -> int | None:
    """Return the number of characters that a step may make one of; None if it may lose any number."""
    if step["type"] == "Replace":
        old = step["pattern"].get("String")
        return 1 if old is not None and len(step["content"]) >= len(old) else None
    return NORMALIZERS.get(step["type"])


def _joined_by_split(step: Mapping[str, Any]) -> int | None:
    if step["type"] in SPLITS:
        return None if step["behavior"] == "Removed" else 1
    return PRE_TOKENIZERS.get(step["type"])


def _spells_all(backend: Any, *, byte_level: bool) -> bool:
    """Return whether every character becomes part of a token of its own or of a longer one."""
    model, vocabulary = backend.model, backend.get_vocab(with_added_tokens=False)
    if type(model).__name__ != "BPE":
        return False
    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    marked = model.continuing_subword_prefix or model.end_of_word_suffix  # letters would have to be there with marks
    if byte_level and not marked and all(letters[byte] in vocabulary for byte in BYTES):
        return True
    if model.byte_fallback and all(f"<0x{byte:02X}>" in vocabulary for byte in BYTES):
        return True
    return model.unk_token in vocabulary and not model.fuse_unk


def _normalized(normalizer: Any, name: str) -> str:
    """Return the name of an added token as it may be looked for in a normalised text."""
    return str(normalizer.normalize_str(name)) if normalizer is not None else name
