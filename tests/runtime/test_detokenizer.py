"""The texts of tokens: those of the tokenizer's own decoder, and the same bit by bit."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import tiny_tokenizers
from tiny_tokenizers import FAMILIES, sequences
from transformers.convert_slow_tokenizer import bytes_to_unicode

from spectr_runtime.rows.text.detokenizer import (
    CLEANUP,
    INCOMPLETE,
    Detokenizer,
    Replacement,
    TextStream,
    common_length,
)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.param()


def reference(tokenizer: Any, ids: list[int]) -> str:
    """The text of tokens: the tokenizer's own, or where tokens for lone bytes are not UTF-8, that of all the bytes."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if INCOMPLETE not in text or "<0x61>" not in tokenizer.get_vocab():
        return text
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    names = [name for name in tokenizer.convert_ids_to_tokens([token for token in ids if token not in special]) if name]
    data = [bytes.fromhex(name[3:5]) if name.startswith("<0x") else name.replace("▁", " ").encode() for name in names]
    text = b"".join(data).decode("utf-8", "replace")
    return text.removeprefix(" ") if "Strip" in tokenizer.backend_tokenizer.to_str() else text


def byte_of(tokenizer: Any) -> Callable[[int], int] | None:
    """The token of a lone byte, as a function of the byte; None if the tokenizer has none."""
    vocabulary, letters = tokenizer.get_vocab(), bytes_to_unicode()
    if "<0x61>" in vocabulary:
        return lambda byte: vocabulary[f"<0x{byte:02X}>"]
    return (lambda byte: vocabulary[letters[byte]]) if "Ã" in vocabulary else None


def test_the_text_of_any_tokens_is_the_tokenizer_s_own(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer)
    for ids in sequences(tokenizer, 500):
        assert detokenizer.text(ids) == reference(tokenizer, ids)


def test_text_that_arrives_token_by_token_is_that_of_all_tokens(tokenizer: Any) -> None:
    detokenizer = Detokenizer(tokenizer)
    for ids in sequences(tokenizer, 300, seed=1):
        whole, stream, sure = reference(tokenizer, ids), TextStream(detokenizer), ""
        for taken, token in enumerate(ids, start=1):
            sure += stream.push([token])
            assert sure + stream.rest() == reference(tokenizer, ids[:taken])
            assert whole.startswith(sure)


def test_what_is_held_back_is_what_other_tokens_could_change(tokenizer: Any) -> None:
    detokenizer, chance = Detokenizer(tokenizer), random.Random(2)
    # Enough to end any character that was begun, and to make any replacement.
    ahead = [[tokenizer.convert_tokens_to_ids(name) for name in names] for names in (["'", "s"], ["s"], ["?"], ["n"])]
    if (byte := byte_of(tokenizer)) is not None:
        ahead += [[byte(second), byte(0x80), byte(0x80)] for second in (0x80, 0x90, 0xA0)]
    for ids in sequences(tokenizer, 100, seed=2):
        stream = TextStream(detokenizer)
        sure, now = stream.push(ids), reference(tokenizer, ids)
        others = [chance.sample(range(len(tokenizer)), 2) for _ in range(10)]
        later = [reference(tokenizer, [*ids, *tokens]) for tokens in (*ahead, *others)]
        common = now[: min(common_length(now, text) for text in later)]
        assert sure == common if not detokenizer.cleanup else common.startswith(sure)
        assert len(stream.rest()) <= 8


def test_a_completion_is_what_the_whole_has_behind_the_prompt(tokenizer: Any) -> None:
    detokenizer, chance = Detokenizer(tokenizer), random.Random(3)
    for ids in sequences(tokenizer, 300, seed=3):
        cut = chance.randrange(len(ids))
        prompt, whole = reference(tokenizer, ids[:cut]), reference(tokenizer, ids)
        added = detokenizer.added(ids[:cut], ids[cut:])
        assert whole.endswith(added)
        shown = whole.removesuffix(added)
        assert prompt.startswith(shown)
        assert not added or prompt[len(shown) : len(shown) + 1] != added[0]


LLAMA = tiny_tokenizers.llama_2()
LONE = [LLAMA.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in range(256)]


def test_a_character_that_is_cut_takes_no_other_with_it() -> None:
    detokenizer = Detokenizer(LLAMA)
    ids = [LONE[byte] for byte in "日本語".encode()]
    assert LLAMA.decode(ids[:-1]) == INCOMPLETE * 8
    assert detokenizer.text(ids[:-1]) == f"日本{INCOMPLETE}"
    assert detokenizer.added(ids[:3], ids[3:-1]) == f"本{INCOMPLETE}"
    assert detokenizer.added(ids[:4], ids[4:]) == "本語"


@pytest.mark.parametrize(
    ("family", "token", "text", "data"),
    [
        (tiny_tokenizers.byte_level, "Ġt", " t", b" t"),
        (tiny_tokenizers.byte_level, "«é", INCOMPLETE, b"\xab\xe9"),
        (tiny_tokenizers.byte_level, "日本\n", "日本\n", "日本\n".encode()),
        (tiny_tokenizers.byte_level, "</s>", "</s>", b""),
        (tiny_tokenizers.llama_2, "<0xE9>", INCOMPLETE, b"\xe9"),
        (tiny_tokenizers.llama_2, "<0x0A>", "\n", b"\n"),
        (tiny_tokenizers.llama_2, "▁th", " th", b" th"),
        (tiny_tokenizers.llama_2, "\ufffd", "\ufffd", b"\xef\xbf\xbd"),
        (tiny_tokenizers.unigram, "▁the", " the", b" the"),
        (tiny_tokenizers.wordpiece, "the", " the", b" the"),
        (tiny_tokenizers.wordpiece, "##re", "re", b"re"),
        (tiny_tokenizers.wordpiece, ".", ".", b"."),
        (tiny_tokenizers.suffixed, "the</w>", "the ", b"the "),
    ],
)
def test_a_piece_is_the_text_and_the_bytes_of_one_token(
    family: Callable[[], Any], token: str, text: str, data: bytes
) -> None:
    tokenizer = family()
    if token == "«é":
        text = INCOMPLETE * 2
    assert Detokenizer(tokenizer).piece(tokenizer.convert_tokens_to_ids(token)) == (text, data)


def test_a_token_that_the_tokenizer_does_not_have_is_no_text() -> None:
    detokenizer = Detokenizer(LLAMA)
    assert detokenizer.piece(len(LLAMA) + 5) == ("", b"")
    assert detokenizer.text([len(LLAMA) + 5, *LLAMA("the")["input_ids"]]) == "the"


def test_replacing_bit_by_bit_is_replacing_in_the_whole() -> None:
    chance = random.Random(4)
    for old, new in [*CLEANUP.items(), ("aa", "b"), ("aba", "")]:
        for _ in range(300):
            bits = ["".join(chance.choices(old + "x", k=chance.randrange(4))) for _ in range(8)]
            replacement = Replacement(old, new)
            found = "".join(map(replacement.push, bits))
            assert found + replacement.rest("") == "".join(bits).replace(old, new)


def test_the_cleaning_up_is_that_of_transformers() -> None:
    for letters in itertools.product(" .?!,'ntsmx", repeat=4):
        text = "".join(letters)
        cleaned = text
        for old, new in CLEANUP.items():
            cleaned = cleaned.replace(old, new)
        assert cleaned == LLAMA.clean_up_tokenization(text)


def test_the_time_for_a_token_does_not_grow_with_the_text() -> None:
    def seconds(before: int) -> float:
        stream = TextStream(Detokenizer(LLAMA))
        stream.push([LONE[0xE9]] * before)
        start = time.process_time()
        for _ in range(2000):
            stream.push([LONE[0xE9]])
        return time.process_time() - start

    assert min(seconds(200_000) for _ in range(3)) < 5 * min(seconds(10) for _ in range(3))
