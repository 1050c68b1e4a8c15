"""From tokens to text: all at once, and bit by bit while tokens arrive."""

from __future__ import annotations

import codecs
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, AnyStr

import numpy as np
from transformers.convert_slow_tokenizer import bytes_to_unicode

INCOMPLETE = "\ufffd"  # stands for bytes that are not a character
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # the name of a lone byte in SentencePiece vocabularies
LETTER = "a"  # a token that decoders leave as it is, to see what they make of its neighbours
# What transformers replaces, one after the other, in the texts of tokenizers with `clean_up_tokenization_spaces`.
CLEANUP = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'"} | {
    f" {ending}": ending for ending in ("n't", "'m", "'s", "'ve", "'re")
}


class Detokenizer:
    """The texts of a tokenizer's tokens.

    **The text of tokens** is what the tokenizer's own ``decode`` returns without special tokens, with one exception.
    Tokenizers with tokens for lone bytes give up a whole run of them if it is not UTF-8, so that a completion that is
    cut inside a character would lose all characters before. Here, as in SentencePiece and in tokenizers whose tokens
    are all made of bytes, only the bytes that are not a character become U+FFFD.

    **What tokens add to others**, as a completion to its prompt, is the text of all less what it has in common with the
    text of those before. So a character that the first ones only began belongs to the tokens that end it.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = {token for token, text in tokenizer.added_tokens_decoder.items() if text.special}
        self._decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
        self._tail = self._join([LETTER, LETTER])[len(self._join([LETTER])) :]
        self._has_byte_tokens = self._joins(["<0x61>"], LETTER)
        self._has_byte_letters = self._joins(["Ã", "©"], "é")  # every letter of a name stands for a byte
        self.cleanup = CLEANUP if _cleans_up(tokenizer) else {}
        self.spelling = functools.cache(self._spelling)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        # An array, whose numbers transformers does not look at one by one.
        text = str(self._tokenizer.decode(np.asarray(ids, np.int64), skip_special_tokens=True))
        if self._decoder is None or not self._has_byte_tokens or INCOMPLETE not in text:
            return text
        return self._mended(ids)

    def added(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that tokens add to those before them."""
        whole = self.text([*before, *ids])
        return whole[common_length(self.text(before), whole) :]

    def piece(self, token: int) -> tuple[str, bytes]:
        """Return the text that one token adds after another one, also if it is a special token, and its bytes.

        A special token has no bytes, since texts do not show it.
        """
        name = self._tokenizer.convert_ids_to_tokens(token)
        if name is None:  # models may score more tokens than the tokenizer has
            return "", b""
        text, _ = self._between([LETTER], name)
        return text, b"" if token in self._special else self._bytes(name, text)

    def _spelling(self, token: int, first: bool) -> tuple[bytes, bytes] | None:
        """Return the bytes that a token adds to a text; None if it adds nothing and does not count.

        Args:
            token: The token.
            first: Whether the text begins with it. Many decoders drop the space in front of a first token.

        Returns:
            The bytes that it adds in any case, and those that it adds if another token follows.
        """
        name = None if token in self._special else self._tokenizer.convert_ids_to_tokens(token)
        if name is None:
            return None
        # The mark of a word's end stands for a space, but at the end of a text for nothing.
        inside, last = (self._bytes(name, text) for text in self._between([] if first else [LETTER], name))
        sure = common_length(inside, last)
        return inside[:sure], inside[sure:]

    def _between(self, before: list[str], name: str) -> tuple[str, str]:
        """Return the text that a token adds to others before a further token, and as the last one."""
        start = len(self._join(before)) if before else 0
        return self._join([*before, name, LETTER])[start : -len(self._tail)], self._join([*before, name])[start:]

    def _bytes(self, name: str, text: str) -> bytes:
        """Return the bytes of a token from its text, or from its name if they are not whole characters."""
        if INCOMPLETE in text:
            alphabet, lone = _byte_alphabet(), BYTE_TOKEN.fullmatch(name)
            if lone and self._has_byte_tokens:
                return bytes.fromhex(lone[1])
            if self._has_byte_letters and alphabet.keys() >= set(name):  # with another letter, a name is a text
                return bytes(alphabet[letter] for letter in name)
        return text.encode()

    def _mended(self, ids: Iterable[int]) -> str:
        """Return the text of tokens, with bytes replaced that are not a character."""
        names = (self._tokenizer.convert_ids_to_tokens(token) for token in ids if token not in self._special)
        text = self._join(list(_without_broken_bytes(name for name in names if name is not None)))
        return str(self._tokenizer.clean_up_tokenization(text)) if self.cleanup else text

    def _joins(self, names: list[str], text: str) -> bool:
        """Return whether the vocabulary has these names, and the decoder makes this text of them."""
        ids = self._tokenizer.convert_tokens_to_ids(names)  # those of unknown names are None or the unknown token's
        known = None not in ids and self._tokenizer.convert_ids_to_tokens(ids) == names
        return known and self._join(names) == text

    def _join(self, names: list[str]) -> str:
        """Return what the tokenizer's decoder makes of the names of tokens."""
        if not self._tokenizer.is_fast:
            return str(self._tokenizer.convert_tokens_to_string(names))
        return str(self._decoder.decode(names)) if self._decoder is not None else " ".join(names)


class TextStream:
    """The text of tokens that arrive one after the other; the time for each does not grow with those before.

    Every decoder that language models use joins what its tokens stand for, and treats only the first and the last token
    differently. So the bytes are joined here, and read as UTF-8 as they come.

    Args:
        detokenizer: Knows the tokens.
    """

    def __init__(self, detokenizer: Detokenizer) -> None:
        self._detokenizer = detokenizer
        self._started = False
        self._due = b""  # what the last token adds once another one follows
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._replacements = [Replacement(*pair) for pair in detokenizer.cleanup.items()]

    def push(self, ids: Iterable[int]) -> str:
        """Take tokens, and return the text that has become certain, whatever tokens follow."""
        data = []
        for token in ids:
            spelt = self._detokenizer.spelling(token, not self._started)
            if spelt is not None:
                data += [self._due, spelt[0]]
                self._started, self._due = True, spelt[1]
        text = self._characters.decode(b"".join(data))
        for replacement in self._replacements:
            text = replacement.push(text)
        return text

    def rest(self) -> str:
        """Return the text that is certain too if no token follows."""
        text = self._characters.getstate()[0].decode("utf-8", "replace")
        for replacement in self._replacements:
            text = replacement.rest(text)
        return text


class Replacement:
    """``str.replace`` on a text that arrives bit by bit."""

    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._open = ""  # the end of the text, where it may be the start of an ``old``

    def push(self, text: str) -> str:
        """Take the next bit, and return what no later one changes."""
        *parts, last = (self._open + text).split(self._old)
        start = last.find(self._old[0], max(0, len(last) - len(self._old) + 1))
        while start >= 0 and not self._old.startswith(last[start:]):
            start = last.find(self._old[0], start + 1)
        self._open = last[start:] if start >= 0 else ""
        return self._new.join([*parts, last.removesuffix(self._open)])

    def rest(self, text: str) -> str:
        """Return what is left if the text ends with this bit."""
        return (self._open + text).replace(self._old, self._new)


def common_length(one: AnyStr, other: AnyStr) -> int:
    """Return the length of the start that two texts have in common."""
    if other.startswith(one):
        return len(one)
    return next((index for index, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(other))


def _cleans_up(tokenizer: Any) -> bool:
    """Return whether ``decode`` removes spaces in front of punctuation, which it does for few BPE tokenizers."""
    if tokenizer.is_fast and type(tokenizer.backend_tokenizer.model).__name__ == "BPE":
        forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
        return bool(tokenizer.clean_up_tokenization_spaces and getattr(tokenizer, forced, False))
    return bool(tokenizer.clean_up_tokenization_spaces)


def _without_broken_bytes(names: Iterable[str]) -> Iterator[str]:
    """Yield the names of tokens, with U+FFFD in the place of lone bytes that are not a character."""
    for lone, run in itertools.groupby(names, key=lambda name: BYTE_TOKEN.fullmatch(name) is not None):
        if not lone:
            yield from run
            continue
        for letter in bytes.fromhex("".join(name[3:5] for name in run)).decode("utf-8", "replace"):
            yield from [letter] if letter == INCOMPLETE else [f"<0x{byte:02X}>" for byte in letter.encode()]


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    return {letter: byte for byte, letter in letters.items()}
