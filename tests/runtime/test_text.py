"""From tokens to text, and stop texts at any position."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import VOCABULARY, byte_tokenizer
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from spectr_runtime import RequestError
from spectr_runtime.rows.tokenizer import INCOMPLETE, StopText, Tokenizer


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return Tokenizer(folder, VOCABULARY)


def pushed(text: Tokenizer, written: str, stops: tuple[str, ...], prompt: str = "x") -> tuple[str | None, int]:
    """Text before the first stop and how many tokens it took."""
    watcher = StopText(text, text.encode(prompt), stops)
    ids = text.encode(written)
    for taken, token in enumerate(ids, start=1):
        found = watcher.push(token)
        if found is not None:
            return found, taken
    return None, len(ids)


def test_text_survives_the_round_trip(text: Tokenizer) -> None:
    for words in ("hello", "naïve — 日本語 🎉", "  two\n\nlines "):
        assert text.completion(text.encode("x"), text.encode(words)) == words


@pytest.mark.parametrize("stop", ["b", "bc", "cdefghijklmnopqrs", "日本", "🎉"])
def test_a_stop_text_ends_the_completion_at_its_last_token(text: Tokenizer, stop: str) -> None:
    written = "aaabcdefghijklmnopqrst 日本語 🎉 end"
    before = written[: written.index(stop)]
    assert pushed(text, written, (stop,)) == (before, len((before + stop).encode()))


def test_the_earliest_stop_wins(text: Tokenizer) -> None:
    assert pushed(text, "one two three", ("three", "two", "zzz")) == ("one ", 7)


def test_the_prompt_is_not_searched(text: Tokenizer) -> None:
    assert pushed(text, "bcd", ("ab",), prompt="a") == (None, 3)


def test_a_prompt_that_ends_inside_a_character_loses_nothing(text: Tokenizer) -> None:
    ids = text.encode("a🎉bc")
    assert text.completion(ids[:3], ids[3:]) == "🎉bc"
    watcher = StopText(text, ids[:3], ("c",))
    assert [watcher.push(token) for token in ids[3:]][-1] == "🎉b"


def test_a_prompt_that_ends_with_a_replacement_character_keeps_it(text: Tokenizer) -> None:
    prompt = text.encode(f"a{INCOMPLETE}")
    assert text.completion(prompt, text.encode("bc")) == "bc"
    assert pushed(text, "bc", ("c",), prompt=f"a{INCOMPLETE}") == ("b", 2)


def test_stop_texts_that_end_while_they_are_held_back_are_text(text: Tokenizer) -> None:
    watcher = StopText(text, text.encode("x"), ("b", "long stop"))
    found = [watcher.push(token, held=index < 4) for index, token in enumerate(text.encode("abab cb"))]
    assert found == [None] * 6 + ["abab c"]
    straddling = StopText(text, text.encode("x"), ("stop",))
    assert [straddling.push(token, held=index < 4) for index, token in enumerate(text.encode("a stop"))][-1] == "a "


def test_half_a_character_is_refused(text: Tokenizer) -> None:
    with pytest.raises(RequestError, match="The prompt holds half of a character"):
        text.encode("\ud83c")


def test_bytes_that_never_become_a_character_do_not_block_a_stop(text: Tokenizer) -> None:
    lead = text.encode("日")[0]
    watcher = StopText(text, text.encode("x"), ("stop",))
    found = [watcher.push(token) for token in (*[lead] * 40, *text.encode("stop"))]
    assert found[-1] is not None
    assert "stop" not in found[-1]


def test_a_tokenizer_that_marks_words_keeps_the_first_space(tmp_path: Path) -> None:
    vocabulary = {"<end>": 0, "\u2581one": 1, "\u2581two": 2}
    tokenizer = RawTokenizer(models.WordLevel(vocabulary, "<end>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(tmp_path)
    text = Tokenizer(tmp_path, 3)
    assert text.decode((1, 2)) == "one two"
    assert text.completion((1,), (2, 1)) == " two one"
    assert pushed(text, "two one", (" one",), prompt="one") == (" two", 2)


def test_pieces_of_a_character_keep_their_bytes(text: Tokenizer) -> None:
    pieces = [text.piece(token) for token in text.encode("é!")]
    assert [piece for piece, _ in pieces] == [INCOMPLETE, INCOMPLETE, "!"]
    assert b"".join(data for _, data in pieces) == "é!".encode()


def test_a_lone_byte_of_a_sentencepiece_vocabulary_is_read_from_its_name(tmp_path: Path) -> None:
    words = {"<unk>": 0, "\u2581the": 1, "<0xC3>": 2, "\u2581a": 3}
    tokenizer = RawTokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(tmp_path)
    text = Tokenizer(tmp_path, 4)
    assert text.piece(2) == (INCOMPLETE, b"\xc3")
    assert text.piece(1) == (" the", b" the")


def test_special_tokens_are_known_by_their_names(text: Tokenizer) -> None:
    (name,) = (text._tokenizer.eos_token,)
    assert text.special_ids(("a", name, f"{name}x")) == (text._tokenizer.eos_token_id,)
    assert text.decode((text._tokenizer.eos_token_id,)) == ""
