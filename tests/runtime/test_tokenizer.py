"""Prompts as tokens, and what tokens are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCABULARY, byte_tokenizer
from tiny_tokenizers import FAMILIES, byte_level, llama_2, words
from tokenizers import AddedToken, processors

from spectr_runtime import RequestError
from spectr_runtime.rows.request import Chat
from spectr_runtime.rows.text.detokenizer import INCOMPLETE
from spectr_runtime.rows.text.tokenizer import Tokenizer


def saved(tokenizer: Any, folder: Path, vocabulary: int = 0) -> Tokenizer:
    tokenizer.save_pretrained(folder)
    return Tokenizer(folder, vocabulary or len(tokenizer))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of bytes."""
    return saved(byte_tokenizer(), tmp_path_factory.mktemp("tokenizer"))


def test_text_survives_the_round_trip(text: Tokenizer) -> None:
    for said in ("hello", "naïve — 日本語 🎉", "  two\n\nlines "):
        assert text.completion(text.encode("x"), text.encode(said)) == said


def test_a_prompt_that_ends_inside_a_character_loses_nothing(text: Tokenizer) -> None:
    ids = text.encode("a🎉bc")
    assert text.completion(ids[:3], ids[3:]) == "🎉bc"
    assert text.completion(text.encode(f"a{INCOMPLETE}"), text.encode("bc")) == "bc"


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_text_that_begins_with_the_bos_gets_no_second_one(family: Callable[[], Any], tmp_path: Path) -> None:
    tokenizer = family()
    text = saved(tokenizer, tmp_path)
    bos = tokenizer.bos_token_id
    plain = tuple(tokenizer("the an", add_special_tokens=False)["input_ids"])
    spelt = tuple(tokenizer("<s>the an", add_special_tokens=False)["input_ids"])
    assert spelt[0] == bos
    assert text.encode("the an") == (bos, *plain)
    assert text.encode("<s>the an") == spelt
    assert text.encode("<s><s>the an")[:3] == (bos, bos, spelt[1])
    assert text.encode("<s>") == (bos,)


def test_tokens_in_front_are_left_out_only_if_the_text_spells_them_all(tmp_path: Path) -> None:
    tokenizer = byte_level()
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "<|turn|>", "</s>")]
    (_, bos), (_, turn), (_, end) = special
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <|turn|> $A </s>", special_tokens=special
    )
    text = saved(tokenizer, tmp_path)
    (letter,) = tokenizer("a", add_special_tokens=False)["input_ids"]
    assert text.encode("a") == (bos, turn, letter, end)
    assert text.encode("<s><|turn|>a") == (bos, turn, letter, end)
    assert text.encode("<s>a") == (bos, turn, bos, letter, end)


def test_a_tokenizer_without_a_bos_adds_none(text: Tokenizer) -> None:
    end = text._tokenizer.eos_token
    assert len(text.encode(f"{end}ab")) == 3


def test_a_truncation_or_a_padding_stored_with_the_tokenizer_changes_no_prompt(tmp_path: Path) -> None:
    tokenizer = llama_2()
    tokenizer.chat_template = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
    wanted = saved(tokenizer, tmp_path / "plain").encode("the an " * 9)
    assert len(wanted) > 16
    tokenizer.model_max_length = 8
    tokenizer.backend_tokenizer.enable_truncation(8)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    tokenizer.save_pretrained(tmp_path / "cut")
    assert '"truncation": {' in (tmp_path / "cut" / "tokenizer.json").read_text(encoding="utf-8")
    text = Tokenizer(tmp_path / "cut", len(tokenizer))
    for _ in range(2):
        assert text.encode("the an " * 9) == wanted
        assert text.encode("<s>") == wanted[:1]
        assert len(text.encode(Chat(({"role": "user", "content": "the an " * 9},)))) == len(wanted)


def test_half_a_character_is_refused(text: Tokenizer) -> None:
    with pytest.raises(RequestError, match="The prompt holds half of a character") as caught:
        text.encode("\ud83c")
    assert caught.value.param == "prompt"


def test_a_prompt_without_tokens_is_refused(text: Tokenizer) -> None:
    with pytest.raises(RequestError, match="The prompt is empty; at least one token is needed"):
        text.encode("")


def test_a_token_beyond_the_vocabulary_is_named(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    text = saved(tokenizer, tmp_path, VOCABULARY)
    told = "The prompt holds the token '<|image|>', whose id 257 is outside the vocabulary; ids run from 0 to 256."
    for prompt, param in (("a<|image|>b", "prompt"), (Chat(({"role": "user", "content": "<|image|>"},)), "messages")):
        with pytest.raises(RequestError) as caught:
            text.encode(prompt)
        assert (caught.value.message, caught.value.param) == (told, param)
    with pytest.raises(RequestError, match="Token id 257 is outside the vocabulary"):
        text.encode((1, 257))
    assert text.encode("ab") == text.encode(text.encode("ab"))


def test_special_tokens_are_known_by_their_names(text: Tokenizer) -> None:
    name = text._tokenizer.eos_token
    assert text.special_ids(("a", name)) == (text._tokenizer.eos_token_id,)
    assert text.decode((text._tokenizer.eos_token_id,)) == ""


def test_a_stop_text_that_holds_a_special_token_and_more_is_refused(tmp_path: Path) -> None:
    text = saved(llama_2(), tmp_path)
    with pytest.raises(RequestError) as caught:
        text.special_ids(("a", "</s>", "</s>\n"))
    assert caught.value.param == "stop"
    assert str(caught.value) == (
        "The stop text '</s>\\n' holds the special token '</s>', which texts do not show, so it would never be found. "
        "Give '</s>' alone, which ends the completion at that token, or the text without it."
    )


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(tmp_path: Path) -> None:
    tokenizer = byte_level()  # the longest name has eight characters
    tokenizer.chat_template = "{{ messages[0].content }}"
    text = saved(tokenizer, tmp_path)
    assert len(text.encode("a" * 80, 10)) > 10  # eight to a token would fit, and only tokenising tells
    text._tokenizer = None  # type: ignore[assignment]
    with pytest.raises(RequestError) as caught:
        text.encode("a" * 81, 10)
    told = "The prompt has 81 characters; this bundle takes at most 10 tokens, which stand for at most 80."
    assert (caught.value.message, caught.value.param) == (told, "prompt")
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.hint == "Shorten it, or build the bundle with a larger --capacity."


def test_a_conversation_is_refused_by_its_length_too(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.add_tokens([AddedToken("<end>", rstrip=True)])
    text = saved(tokenizer, tmp_path)
    assert len(text.encode(Chat(({"role": "user", "content": f"<end>{' ' * 999}"},)), 1)) == 1
    with pytest.raises(RequestError) as caught:
        text.encode(Chat(({"role": "user", "content": "a b" * 30},)), 7)
    assert caught.value.message == (
        "The prompt has 60 characters beside white space; this bundle takes at most 7 tokens, which stand for at most "
        "56."
    )


def test_without_a_span_every_text_is_tokenised(tmp_path: Path) -> None:
    text = saved(words(), tmp_path)
    assert len(text.encode("鑫" * 10_000, 2)) == 2
