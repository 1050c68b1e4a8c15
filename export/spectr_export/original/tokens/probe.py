"""What tokenizers make of some texts: two that make the same of all of them are taken to be the same."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

# Texts in which tokenizers differ.
PROBES = (
    # Accents composed and not, digits, white space, code, other scripts, an emoji.
    "Naïve café №42 cafe\u0301:\n\n\tdef f(x):  return x**2.5  # 你好, Привет 🙂 don't—WON'T 00012345\r\n",
    "word",
    " word",
    "   three spaces, and behind   ",
    "\n\n  indented\n\t\ttabs\n \n",
    "1 12 123 1234 12345 3.14159 1,000,000 ٣٤ ²½",
    # Letters whose case, compatibility form or composition a normaliser may change.
    "UPPER Lower camelCase snake_case \u0130 \u00df \u017f",
    "\ufb01 \ufb00 \uff46\uff55\uff4c\uff4c\u3000 \u212b A\u030a \ud55c\uad6d \u1112\u1161\u11ab \u65e5\u672c\u8a9e",
    "a\u00a0b\u200bc\u2028d\ufeffe\x00f\x1bg",
    "I'll we've THEY'RE 'quoted' \"double\" ``code`` ... --- !?!?",
    "🙂🙂 👩\u200d👩\u200d👧 🇩🇪 \U0001d518\U0001d52b\U0001d526 \U00010348",
    "▁ Ġ Ċ Ã ## @@ </w> <0x0A> <s> </s> <|endoftext|> [INST] <unk>",
    'https://example.org/a?b=c&d=%20 C:\\path {"key": [1, 2]} <tag/> $x_1^2$',
)
SHOWN = 6  # how many tokens of a split a message shows, and characters before them
SPECIALS = 12  # how many special tokens are tried within a text


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a tokenizer makes of a text.

    Attributes:
        text: The text.
        ids: The ids of its tokens.
        tokens: Their names.
        decoded: The text that the ids give.
    """

    text: str
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    decoded: str


def read_with(tokenizer: Any, texts: Iterable[str]) -> list[Reading]:
    """Return what a tokenizer of transformers makes of texts, without the tokens that it puts around them."""

    def read(text: str) -> Reading:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        names = tokenizer.convert_ids_to_tokens(ids)
        return Reading(
            text, tuple(ids), tuple(map(str, names)), tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        )

    return [read(text) for text in texts]


def read_with_file(tokenizer: Any, texts: Iterable[str]) -> list[Reading]:
    """Return what a tokenizer of the tokenizers library makes of texts."""

    def read(text: str) -> Reading:
        found = tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(found.ids, skip_special_tokens=False)
        return Reading(text, tuple(found.ids), tuple(found.tokens), decoded)

    return [read(text) for text in texts]


def texts_for(special: Iterable[str]) -> tuple[str, ...]:
    """Return the probes, and texts with special tokens of a tokenizer, which must stay whole among other text."""
    tried = list(special)[:SPECIALS]
    return (*PROBES, *(f"a{token}b {token} c\n{token}" for token in tried))


def difference(first: list[Reading], second: list[Reading]) -> tuple[str, str, str] | None:
    """Return the shortest text of which two tokenizers make something else, and what each makes of it.

    Returns:
        The text and the two readings in words; None if the tokenizers make the same of all texts.
    """
    pairs = zip(first, second, strict=True)
    different = [pair for pair in pairs if (pair[0].ids, pair[0].decoded) != (pair[1].ids, pair[1].decoded)]
    if not different:
        return None
    one, other = min(different, key=lambda pair: len(pair[0].text))
    if one.ids != other.ids:
        at = _first_difference(one.ids, other.ids)
        return one.text, _split(one, at), _split(other, at)
    start = max(0, _first_difference(one.decoded, other.decoded) - SHOWN)
    return one.text, f"the text {one.decoded[start:]!r:.40}", f"the text {other.decoded[start:]!r:.40}"


def _first_difference(first: Sequence[object], second: Sequence[object]) -> int:
    """Return the first index at which two sequences differ; the length of the shorter one if it begins the other."""
    equal = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return sum(1 for _ in equal)


def _split(reading: Reading, at: int) -> str:
    shown = " ".join(map(repr, reading.tokens[at : at + SHOWN])) or "nothing"
    return f"{'... ' if at else ''}{shown}{' ...' if len(reading.ids) > at + SHOWN else ''}"
