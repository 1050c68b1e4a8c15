"""From text to tokens and back."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Chat, Prompt
from spectr_runtime.rows.text.chat_template import ChatTemplate
from spectr_runtime.rows.text.detokenizer import Detokenizer, TextStream
from spectr_runtime.rows.text.span import span_of
from spectr_runtime.rows.tokens import check_tokens, outside

TOO_LONG = "context_length_exceeded"
SHORTEN = "Shorten it, or build the bundle with a larger --capacity."


class Tokenizer:
    """The bundle's tokenizer.

    Args:
        folder: The folder that transformers saved the tokenizer to.
        vocabulary: Size of the vocabulary; prompts may hold token ids below it.
        date: The day that chat templates see; today if none is given.

    Attributes:
        piece: Returns the text that one token adds after another one, and its bytes.
    """

    def __init__(self, folder: Path, vocabulary: int, date: datetime.date | None = None) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._vocabulary = vocabulary
        self._template = ChatTemplate(self._tokenizer, date or datetime.date.today())
        self._start = self._tokens_in_front()
        added = self._tokenizer.added_tokens_decoder.items()
        self._special = {str(token): number for number, token in added if token.special and number < vocabulary}
        self._span = span_of(self._tokenizer)
        self._detokenizer = Detokenizer(self._tokenizer)
        self.piece = functools.cache(self._detokenizer.piece)

    def encode(self, prompt: Prompt, most: int | None = None) -> tuple[int, ...]:
        """Return the token ids of a prompt; the tokenizer's chat template turns a conversation into one.

        A text gets the tokens in front that the tokenizer puts there, such as the one that begins a text, unless it
        begins with their texts already. A conversation has those that the template writes.

        Args:
            prompt: The prompt.
            most: As many tokens are of use. A text that is so long that it certainly has more is refused before it is
                tokenised, which takes seconds and gigabytes for a text of megabytes; one of which this is not certain
                may come back with more.

        Raises:
            RequestError: The prompt has no tokens, a token outside the vocabulary or half of a surrogate pair, or is
                certainly too long; or the tokenizer has no chat template, or the template refuses the messages.
        """
        if isinstance(prompt, Chat):
            ids = self._ids(self._fitting(self._template.render(prompt), most), "messages", special=False)
        elif isinstance(prompt, str):
            ids = self._less_doubled_start(self._ids(self._fitting(prompt, most), "prompt", special=True))
        else:
            check_tokens("prompt", prompt, self._vocabulary)
            ids = list(prompt)
        if not ids:
            raise RequestError(
                "The prompt is empty; at least one token is needed.", param="prompt", code="empty_prompt"
            )
        return tuple(ids)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text that is no prompt: none are put in front, and it may be empty.

        Tokens outside the vocabulary are left out.
        """
        ids = self._tokenizer(text, add_special_tokens=False, padding=False, truncation=False, verbose=False)
        return [token for token in ids["input_ids"] if token < self._vocabulary]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return self._detokenizer.text(ids)

    def completion(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        """Return the text that token ids add to a prompt."""
        return self._detokenizer.added(prompt_ids, ids)

    def stream(self) -> TextStream:
        """Return a text without tokens, which takes them as they arrive."""
        return TextStream(self._detokenizer)

    def special_ids(self, stops: Iterable[str]) -> tuple[int, ...]:
        """Return the ids of those stop texts that are special tokens, which no completion shows.

        Raises:
            RequestError: A stop text holds a special token and other text, so that it could never be found.
        """
        stops = tuple(stops)
        for stop in stops:
            if stop not in self._special:
                self._check_stop(stop)
        return tuple(self._special[stop] for stop in stops if stop in self._special)

    def _check_stop(self, stop: str) -> None:
        if found := next((name for name in self._special if name in stop), None):
            raise RequestError(
                f"The stop text {stop!r} holds the special token {found!r}, which texts do not show, so it would never "
                "be found.",
                param="stop",
                hint=f"Give {found!r} alone, which ends the completion at that token, or the text without it.",
            )

    def _fitting(self, text: str, most: int | None) -> str:
        """Return a text, unless it has more characters than so many tokens may stand for."""
        if self._span is None or most is None or len(text) <= (allowed := most * self._span.characters):
            return text
        if (size := self._span.size(text)) <= allowed:
            return text
        white = "" if self._span.counts_white else " beside white space"
        raise RequestError(
            f"The prompt has {size} characters{white}; this bundle takes at most {most} tokens, which stand for at "
            f"most {allowed}.",
            param="prompt",
            code=TOO_LONG,
            hint=SHORTEN,
        )

    def _ids(self, text: str, param: str, *, special: bool) -> list[int]:
        """Return the tokens of a text, with those that the tokenizer adds around it or without.

        A truncation or a padding that is stored with the tokenizer is not applied.
        """
        ids: list[int] = self._tokenizer(
            _whole(text, param), add_special_tokens=special, padding=False, truncation=False, verbose=False
        )["input_ids"]
        if beyond := outside(ids, self._vocabulary):
            name = self._tokenizer.convert_ids_to_tokens(beyond[0])
            raise RequestError(
                f"The prompt holds the token {name!r}, whose id {beyond[0]} is outside the vocabulary; ids run from 0 "
                f"to {self._vocabulary - 1}.",
                param=param,
            )
        return ids

    def _tokens_in_front(self) -> list[int]:
        """Return the tokens that the tokenizer puts in front of every text."""
        with_them, without = (self._tokenizer("a", add_special_tokens=added)["input_ids"] for added in (True, False))
        starts = range(len(with_them) - len(without) + 1)
        found = (start for start in starts if with_them[start : start + len(without)] == without)
        return list(with_them[: next(found, 0)])

    def _less_doubled_start(self, ids: list[int]) -> list[int]:
        """Return tokens without the ones that the tokenizer put in front if the text spells the same behind them."""
        size = len(self._start)
        return ids[size:] if size and ids[size : 2 * size] == self._start else ids


def _whole(text: str, param: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"The prompt holds half of a character: {error}.", param=param) from error
    return text
