"""A corpus: finished texts and a file of the user's, in which suffixes are found, in limited memory."""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from spectr_runtime.drafting.suffixes import Match, SuffixIndex
from spectr_runtime.errors import UsageError, first_line

# In many texts a pair of tokens occurs somewhere, whatever comes next. Drafts behind three tokens are about as good as
# behind four, and there are more of them.
ORDER = 3
MOST_TOKENS = 2**19  # that a run keeps of finished rows and of the user's texts
# The bytes of a text, or characters of many, of a file that are made tokens: the last ones. More than these tokens have
# would not be kept, and a large file would take hours and more memory than there is.
MOST_TEXT = 16 * MOST_TOKENS
LINES = ".jsonl"  # the ending of names of JSON Lines


class Corpus:
    """The last texts of many, in two generations: when the young one is full, it replaces the old one.

    So no text has to be taken out of an index. At least half of the room holds the last texts.

    Args:
        most_tokens: The most tokens that are kept, at least 4. The end of a text counts as a token.
    """

    def __init__(self, most_tokens: int) -> None:
        self._full = max(most_tokens // 2 - 1, 1)  # the end of the last text comes on top
        self._young, self._old = SuffixIndex(ORDER), SuffixIndex(ORDER)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, tokens: Sequence[int]) -> None:
        """Add a text. What does not fit into a generation goes into the next one, as another text."""
        start = 0
        while start < len(tokens):
            if len(self._young) >= self._full:
                self._old, self._young = self._young, SuffixIndex(ORDER)
            end = start + self._full - len(self._young)
            self._young.extend(tokens[start:end])
            self._young.end_text()
            start = end

    def find(self, suffix: Sequence[int], paths: int, length: int) -> Match | None:
        """Return what followed the longest suffix of a text in the texts here; see ``SuffixIndex.find``.

        Where both generations have it, what followed in the young one is returned.
        """
        young, old = (index.find(suffix, paths, length) for index in (self._young, self._old))
        if young is None or old is None:
            return young or old
        return old if old.matched > young.matched else young


def read_corpus(path: Path, encode: Callable[[str], Sequence[int]]) -> Iterator[Sequence[int]]:
    """Yield the texts of a file as tokens, one after another.

    A file whose name ends in ``.jsonl`` has texts on each line: a JSON string, an object with a string ``text``, or a
    line of an output with several completions or in the form of the API. Empty lines are passed over. Any other file is
    one text. Of a file with more texts than a run keeps, the last ones are made tokens.

    Args:
        path: The file, in UTF-8.
        encode: Makes tokens of a text.

    Raises:
        UsageError: The file cannot be read, or is not of this form. It is raised where the texts are asked for.
    """
    try:
        with path.open("rb") as file:
            if path.suffix.lower() != LINES:
                yield encode(_decode(*_end_of(file, MOST_TEXT), path))
                return
            lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
            texts = (_texts_of(_decode(line.rstrip(), number, path), path, number) for number, line in lines)
            yield from map(encode, _last(itertools.chain.from_iterable(texts), MOST_TEXT))
    except OSError as error:
        raise UsageError(
            f"The corpus {path} cannot be read: {error.strerror or error}; allowed is a file.",
            hint="Check its name and its permissions.",
        ) from error


def _end_of(file: BinaryIO, most: int) -> tuple[bytes, int]:
    """Return at most so many of the last bytes of a file, from a whole character on, and the line they begin in."""
    content, line = b"", 1
    while chunk := file.read(most):
        content += chunk
        cut = len(content) - most
        if cut > 0:
            while cut < len(content) and content[cut] & 0xC0 == 0x80:  # a byte that goes on with a character
                cut += 1
            line += content.count(b"\n", 0, cut)
            content = content[cut:]
    return content, line


def _last(texts: Iterable[str], most: int) -> Iterable[str]:
    """Return the last texts, as many as so many characters need; of one that is longer, its end."""
    kept, size = deque[str](), 0
    for text in texts:
        kept.append(text[-most:])
        size += len(kept[-1])
        while size - len(kept[0]) >= most:
            size -= len(kept.popleft())
    return kept


def _decode(content: bytes, line: int, path: Path) -> str:
    """Return bytes of a file as text, without a byte order mark; they begin at the given line."""
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise UsageError(
            f"The corpus {path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 there; allowed is UTF-8.",
            hint="Convert the file, for instance with iconv.",
        ) from error


def _texts_of(line: str, path: Path, number: int) -> list[str]:
    """Return the texts on a line of JSON Lines.

    Raises:
        UsageError: The line is not JSON, or has no text, or one that is not of whole characters.
    """
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise _refusal(path, number, f"broken JSON at character {error.pos + 1}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits, thousands of brackets
        raise _refusal(path, number, f"JSON that cannot be read: {first_line(error)}") from error
    texts = [*_found(value)]
    if not texts:
        raise _refusal(path, number, f"{'an object' if isinstance(value, dict) else 'JSON'} without a text")
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):  # no tokenizer takes one
        raise _refusal(path, number, "half of a surrogate pair")
    return texts


def _found(value: object) -> Iterator[str]:
    """Yield the texts of a line, however it holds them."""
    match value:
        case str(text) | {"text": str(text)} | {"message": {"content": str(text)}}:
            yield text
        case {"completions": list(several)} | {"choices": list(several)}:
            for one in several:
                yield from _found(one)
        case {"response": {"body": body}}:
            yield from _found(body)


def _refusal(path: Path, line: int, got: str) -> UsageError:
    return UsageError(
        f"The corpus {path}, line {line}: {got}; allowed is a JSON string, an object with a string `text`, "
        "or a line of an output.",
        hint=f"Correct the line, or name the file other than {LINES} if it is to be read as one text.",
    )
