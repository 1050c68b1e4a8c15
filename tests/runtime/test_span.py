"""The length that a text of so many tokens has at most: never less than a text that fits, and known where it can be."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import byte_tokenizer
from tiny_tokenizers import (
    BYTES,
    SPECIAL,
    byte_level,
    gemma,
    llama_2,
    numbered,
    unigram,
    unigram_bytes,
    wordpiece,
    words,
    wrapped,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spectr_runtime.rows.text.span import COMPOSED, WHITE, Span, span_of


def changed(**parts: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with another part."""
    tokenizer = byte_level()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def with_token(token: AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = byte_level()
    tokenizer.add_tokens([token])
    return tokenizer


def composing() -> PreTrainedTokenizerFast:
    return changed(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Replace("\n", "\n\n")]))


def greedy() -> PreTrainedTokenizerFast:
    return with_token(AddedToken("<end>", rstrip=True))


def bytes_of(*, fuse: bool = False, missing: str = "", unknown: str | None = None, **options: Any) -> Any:
    """A tokenizer with tokens for lone bytes and for an unknown letter, or without some of them."""
    vocabulary = numbered([name for name in BYTES if name != missing], "ab", ["<unk>"])
    return wrapped(Tokenizer(models.BPE(vocabulary, [], unk_token=unknown, fuse_unk=fuse, **options)))


def marked() -> PreTrainedTokenizerFast:
    """Bytes whose last one of a word would need a mark, and is lost without it."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(numbered(SPECIAL, letters), [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    return wrapped(tokenizer)


BOUNDED: dict[str, tuple[Callable[[], Any], Span]] = {
    "bytes": (byte_tokenizer, Span(7)),
    "byte level": (byte_level, Span(8)),
    "llama 2": (llama_2, Span(9)),
    "gemma": (gemma, Span(8)),
    "composition": (composing, Span(32)),
    "white space": (greedy, Span(8, counts_white=False)),
    "lone bytes": (lambda: bytes_of(byte_fallback=True), Span(8)),
    "lone bytes of UTF-8": (lambda: bytes_of(byte_fallback=True, missing="<0xC0>"), Span(8)),
    "unknown letters": (lambda: bytes_of(unknown="<unk>"), Span(8)),
    "digits": (
        lambda: changed(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.Digits(True), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel()]
            )
        ),
        Span(8),
    ),
}


@pytest.mark.parametrize(("make", "span"), BOUNDED.values(), ids=BOUNDED.keys())
def test_the_span_of_a_tokenizer_that_loses_nothing(make: Callable[[], Any], span: Span) -> None:
    assert span_of(make()) == span


# Letters that compose, white space of several kinds, special tokens, and what is in no vocabulary.
LETTERS = st.sampled_from(
    ["a", "t", "th", "é", "e\u0301", "\u03b1\u0313\u0300\u0345", "鑫", "🎉", "\n", "<end>", "<s>"]
)
TEXTS = st.lists(LETTERS | st.sampled_from(WHITE) | st.characters(exclude_categories=["Cs"]), max_size=60).map("".join)


@pytest.mark.parametrize("name", BOUNDED)
def test_no_text_has_more_than_its_tokens_stand_for(name: str) -> None:
    tokenizer = BOUNDED[name][0]()
    span = span_of(tokenizer)
    assert span is not None

    @settings(max_examples=100, deadline=None)
    @given(TEXTS | LETTERS.map(lambda letter: letter * 50))
    def holds(text: str) -> None:
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        assert span.size(text) <= tokens * span.characters

    holds()


def test_white_space_behind_a_token_that_takes_it_does_not_count() -> None:
    tokenizer = greedy()
    text = "<end>" + " \t\n\u3000" * 100
    assert len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1
    assert Span(8, counts_white=False).size(text) == len("<end>")
    assert Span(8).size(text) == len(text)


UNBOUNDED: dict[str, Callable[[], Any]] = {
    "Unigram": unigram,
    "Unigram with lone bytes": unigram_bytes,
    "WordPiece": wordpiece,
    "words": words,
    "unknown letters as one": lambda: bytes_of(unknown="<unk>", fuse=True),
    "unknown letters dropped": bytes_of,
    "a byte missing": lambda: bytes_of(byte_fallback=True, missing="<0xC3>"),
    "marks of words": marked,
    "accents dropped": lambda: changed(normalizer=normalizers.StripAccents()),
    "spaces joined": lambda: changed(normalizer=normalizers.Replace(Regex(" +"), " ")),
    "letters replaced by fewer": lambda: changed(normalizer=normalizers.Replace("aa", "a")),
    "letters replaced behind bytes": lambda: changed(
        normalizer=normalizers.Sequence([normalizers.ByteLevel(), normalizers.Replace("Ġ", "▁")]), pre_tokenizer=None
    ),
    "splits removed": lambda: changed(pre_tokenizer=pre_tokenizers.Split(" ", "removed")),
    "white space removed": lambda: changed(pre_tokenizer=pre_tokenizers.WhitespaceSplit()),
}


@pytest.mark.parametrize("make", UNBOUNDED.values(), ids=UNBOUNDED.keys())
def test_a_tokenizer_that_may_lose_text_has_no_span(make: Callable[[], Any]) -> None:
    assert span_of(make()) is None


def test_no_character_decomposes_into_more_than_are_counted() -> None:
    characters = map(chr, range(0x110000))
    assert max(len(unicodedata.normalize("NFD", character)) for character in characters) == COMPOSED


def test_all_white_space_is_known() -> None:
    assert set(WHITE) == {character for character in map(chr, range(0x110000)) if character.isspace()}
