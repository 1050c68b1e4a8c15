"""Text to tokens and back: prompts, chat templates, completions, stop texts."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Chat, Prompt
from spectr_runtime.rows.tokens import check_tokens

INCOMPLETE = "\ufffd"  # what a decoder shows for bytes that wait for the next token
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # how SentencePiece vocabularies spell a lone byte
CONTEXT_TOKENS = 8  # prompt tokens decoded before a completion, so that its first token keeps its space


class Tokenizer:
    """The bundle's tokenizer.

    Args:
        folder: Folder that transformers saved the tokenizer to.
        vocabulary: Token ids below this are allowed in a prompt.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._vocabulary = vocabulary
        added = self._tokenizer.added_tokens_decoder.items()
        self._special = {str(token): number for number, token in added if token.special and number < vocabulary}
        self.piece = functools.cache(self._piece)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt; conversations go through the tokenizer's chat template.

        Raises:
            RequestError: The prompt holds no token, a token id is outside the vocabulary, a character is
                half, or there is no chat template.
        """
        if isinstance(prompt, Chat):
            ids = self._tokenizer(self._render(prompt), add_special_tokens=False, verbose=False)["input_ids"]
        elif isinstance(prompt, str):
            ids = self._tokenizer(_whole(prompt), verbose=False)["input_ids"]
        else:
            ids = prompt
        if not ids:
            raise RequestError(
                "The prompt is empty; at least one token is needed.", param="prompt", code="empty_prompt"
            )
        check_tokens("prompt", ids, self._vocabulary)
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def completion(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Text that token ids add to a prompt."""
        return self.added(prompt_ids[-CONTEXT_TOKENS:], ids)

    def added(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """Text that token ids add to others; a character that these began belongs to it."""
        before, whole = self.decode(context), self.decode([*context, *ids])
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
        return whole[sum(1 for _ in same) :]

    def special_ids(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Ids of the texts that are special tokens, which no completion shows."""
        return tuple(self._special[text] for text in texts if text in self._special)

    def _piece(self, token: int) -> tuple[str, bytes]:
        """What one token looks like behind another one, special tokens too, and its bytes."""
        before = list(self._tokenizer("a", add_special_tokens=False)["input_ids"])
        text = str(self._tokenizer.decode([*before, token]))[len(str(self._tokenizer.decode(before))) :]
        name = self._tokenizer.convert_ids_to_tokens(token)
        return text, _raw_bytes(name) if INCOMPLETE in text else text.encode()

    def _render(self, chat: Chat) -> str:
        if not self._tokenizer.chat_template:
            raise RequestError(
                "The tokenizer has no chat template, so messages cannot be written out as a prompt.",
                param="messages",
                code="no_chat_template",
                hint="Give `prompt` instead, or build the bundle from a model whose tokenizer has a chat template.",
            )
        try:
            messages = [dict(message) for message in chat.messages]
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except Exception as error:  # a template is a program of its author's and raises what it likes
            raise RequestError(f"The chat template refused the messages: {error}.", param="messages") from error


def _whole(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"The prompt holds half of a character: {error}.", param="prompt") from error
    return prompt


def _raw_bytes(name: str) -> bytes:
    """Bytes of a token of a byte-level or a SentencePiece vocabulary from its name there."""
    if spelled := BYTE_TOKEN.fullmatch(name):
        return bytes.fromhex(spelled[1])
    alphabet = _byte_alphabet()
    return b"".join(bytes([alphabet[letter]]) if letter in alphabet else letter.encode() for letter in name)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    letters: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
    return {letter: byte for byte, letter in letters.items()}


class StopText:
    """Watches a completion for stop texts while its tokens arrive.

    Args:
        tokenizer: The bundle's tokenizer.
        prompt_ids: The prompt.
        stops: Non-empty texts, any of which ends the completion.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stops: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._context = list(prompt_ids[-CONTEXT_TOKENS:])
        self._open: list[int] = []  # tokens of a character that is not whole yet
        self._written = ""

    def push(self, token: int, *, held: bool = False) -> str | None:
        """Take one token; the completion's text before the first stop text that the token ended, if it ended one.

        Args:
            token: The token.
            held: Whether a stop text may not come yet.
        """
        self._open.append(token)
        piece = self._tokenizer.added(self._context, self._open)
        if piece.endswith(INCOMPLETE) and len(self._open) < CONTEXT_TOKENS:
            return None
        self._context = [*self._context, *self._open][-CONTEXT_TOKENS:]
        self._open = []
        before = len(self._written)
        self._written += piece
        return None if held else _before_first(self._written, self._stops, before)


def _before_first(written: str, stops: Iterable[str], known: int) -> str | None:
    """What stands before the first stop text that ends behind the known part."""
    found = [start for stop in stops if (start := written.find(stop, max(0, known - len(stop) + 1))) >= 0]
    return written[: min(found)] if found else None
