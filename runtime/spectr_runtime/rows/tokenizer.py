"""From text to tokens and back: prompts, chat templates, completions and stop texts."""

from __future__ import annotations

import datetime
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

INCOMPLETE = "\ufffd"  # tokenizers show this character for bytes whose character the next token completes
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # the name of a lone byte in SentencePiece vocabularies
# So many tokens before a text are decoded with it, because many tokenizers drop the space in front of a first token.
CONTEXT_TOKENS = 8


class Tokenizer:
    """The bundle's tokenizer.

    Args:
        folder: The folder that transformers saved the tokenizer to.
        vocabulary: Size of the vocabulary; prompts may hold token ids below it.
    """

    def __init__(self, folder: Path, vocabulary: int, date: datetime.date | None = None) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._vocabulary = vocabulary
        added = self._tokenizer.added_tokens_decoder.items()
        self._special = {str(token): number for number, token in added if token.special and number < vocabulary}
        self.piece = functools.cache(self._piece)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt; the tokenizer's chat template turns a conversation into one.

        Raises:
            RequestError: The prompt has no tokens, a token id outside the vocabulary or half of a surrogate pair, or
                the tokenizer has no chat template, or the template refuses the messages.
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
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def completion(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that token ids add to a prompt."""
        return self.added(prompt_ids[-CONTEXT_TOKENS:], ids)

    def added(self, context: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that token ids add to those of a context, with a character that the context only began."""
        before, whole = self.decode(context), self.decode([*context, *ids])
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(before, whole, strict=False))
        return whole[sum(1 for _ in same) :]

    def special_ids(self, texts: Iterable[str]) -> tuple[int, ...]:
        """Return the ids of those texts that are special tokens, which no completion shows."""
        return tuple(self._special[text] for text in texts if text in self._special)

    def _piece(self, token: int) -> tuple[str, bytes]:
        """Return the text that one token adds after another one, also if it is a special token, and its bytes."""
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
        except Exception as error:  # a template is a program and may raise anything
            raise RequestError(f"The chat template refused the messages: {error}.", param="messages") from error


def _whole(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"The prompt holds half of a character: {error}.", param="prompt") from error
    return prompt


def _raw_bytes(name: str) -> bytes:
    """Return the bytes of a token from its name in a byte-level or a SentencePiece vocabulary."""
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
        prompt_ids: Token ids of the prompt.
        stops: Non-empty texts, any of which ends the completion.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int], stops: tuple[str, ...]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self._context = list(prompt_ids[-CONTEXT_TOKENS:])
        self._open: list[int] = []  # tokens that end in part of a character
        self._written = ""

    def push(self, token: int, *, held: bool = False) -> str | None:
        """Take one token, and return the text of a completion that it ends.

        Args:
            token: The token.
            held: Whether it is too early for a stop text to end the completion.

        Returns:
            The completion's text before the first stop text that the token completed; None if it completed none.
        """
        self._open.append(token)
        piece = self._tokenizer.added(self._context, self._open)
        # A character never takes so many tokens: bytes that make none must not be waited for.
        if piece.endswith(INCOMPLETE) and len(self._open) < CONTEXT_TOKENS:
            return None
        self._context = [*self._context, *self._open][-CONTEXT_TOKENS:]
        self._open = []
        before = len(self._written)
        self._written += piece
        return None if held else _before_first(self._written, self._stops, before)


def _before_first(written: str, stops: Iterable[str], known: int) -> str | None:
    """Return the text before the first stop text that ends after the first ``known`` characters, or None."""
    found = [start for stop in stops if (start := written.find(stop, max(0, known - len(stop) + 1))) >= 0]
    return written[: min(found)] if found else None
