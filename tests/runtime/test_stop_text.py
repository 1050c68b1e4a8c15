"""Stop texts at any position, of tokenizers of every family."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tiny_models import VOCABULARY, byte_tokenizer
from tiny_tokenizers import FAMILIES, gemma, llama_2, sequences

from spectr_runtime.rows.text.detokenizer import INCOMPLETE, common_length
from spectr_runtime.rows.text.stop_text import StopText
from spectr_runtime.rows.text.tokenizer import Tokenizer

Found = tuple[str | None, int]  # the text before the stop text, and the number of tokens that it took


def saved(tokenizer: Any, folder: Path) -> Tokenizer:
    tokenizer.save_pretrained(folder)
    return Tokenizer(folder, len(tokenizer) + 2)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer of bytes."""
    return saved(byte_tokenizer(), tmp_path_factory.mktemp("tokenizer"))


def pushed(text: Tokenizer, prompt: list[int], ids: list[int], stops: tuple[str, ...], held: int = 0) -> Found:
    watcher = StopText(text.stream(), prompt, stops)
    for taken, token in enumerate(ids, start=1):
        found = watcher.push(token, held=taken <= held, last=taken == len(ids))
        if found is not None:
            return found, taken
    return None, len(ids)


def searched(text: Tokenizer, prompt: list[int], ids: list[int], stops: tuple[str, ...], held: int) -> Found:
    """The same, by searching all the text that is certain after each token."""
    stream = text.stream()
    shown, whole, before = text.decode(prompt), stream.push(prompt), 0
    for taken, token in enumerate(ids, start=1):
        whole += stream.push([token])
        certain = text.decode([*prompt, *ids]) if taken == len(ids) else whole
        written = certain[common_length(shown, certain) :]
        found = [(start, stop) for stop in stops for start in range(len(written)) if written.startswith(stop, start)]
        ends = [start for start, stop in found if start + len(stop) > before]
        if ends and taken > held:
            return written[: min(ends)], taken
        before = len(written)
    return None, len(ids)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_stop_text_is_found_at_the_first_token_after_which_it_is_certain(family: Any, tmp_path: Path) -> None:
    tokenizer, chance = family(), random.Random(5)
    text = saved(tokenizer, tmp_path)
    stopped = 0
    for ids in sequences(tokenizer, 400, seed=5):
        cut, held = chance.randrange(len(ids)), chance.choice([0, 0, 3])
        prompt, written = ids[:cut], ids[cut:]
        completion = text.completion(prompt, written)
        starts = [chance.randrange(len(completion)) for _ in range(2)] if completion else []
        stops = (*(completion[start : start + chance.randrange(1, 6)] for start in starts), "zz")
        found = pushed(text, prompt, written, stops, held)
        assert found == searched(text, prompt, written, stops, held)
        if found[0] is not None:
            stopped += 1
        elif not held:
            assert not any(stop in completion for stop in stops)
    assert stopped > 100


@pytest.mark.parametrize("family", [llama_2, gemma])
def test_a_newline_that_is_a_lone_byte_ends_the_completion_at_once(family: Any, tmp_path: Path) -> None:
    tokenizer = family()
    text = saved(tokenizer, tmp_path)
    ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "日本\n語\n".encode()]
    assert pushed(text, list(text.encode("鑫")), ids, ("\n",)) == ("日本", 7)
    assert pushed(text, ids[:2], ids[2:], ("本\n",)) == ("日", 5)


@pytest.mark.parametrize("stop", ["b", "bc", "cdefghijklmnopqrs", "日本", "🎉"])
def test_a_stop_text_ends_the_completion_at_its_last_token(text: Tokenizer, stop: str) -> None:
    written = "aaabcdefghijklmnopqrst 日本語 🎉 end"
    before = written[: written.index(stop)]
    ids = list(text.encode(written))
    assert pushed(text, list(text.encode("x")), ids, (stop,)) == (before, len((before + stop).encode()))


def test_the_earliest_stop_wins(text: Tokenizer) -> None:
    ids = list(text.encode("one two three"))
    assert pushed(text, list(text.encode("x")), ids, ("three", "two", "zzz")) == ("one ", 7)


def test_the_prompt_is_not_searched(text: Tokenizer) -> None:
    assert pushed(text, list(text.encode("a")), list(text.encode("bcd")), ("ab",)) == (None, 3)


def test_a_stop_text_may_begin_in_a_character_that_the_prompt_began(text: Tokenizer) -> None:
    ids = list(text.encode("a🎉bc"))
    assert pushed(text, ids[:3], ids[3:], ("🎉b",)) == ("", 3)
    assert pushed(text, ids[:3], ids[3:], ("c",)) == ("🎉b", 4)


def test_a_prompt_that_ends_with_a_replacement_character_keeps_it(text: Tokenizer) -> None:
    assert pushed(text, list(text.encode(f"a{INCOMPLETE}")), list(text.encode("bc")), ("c",)) == ("b", 2)


def test_stop_texts_that_end_while_they_are_held_back_are_text(text: Tokenizer) -> None:
    prompt = list(text.encode("x"))
    assert pushed(text, prompt, list(text.encode("abab cb")), ("b", "long stop"), held=4) == ("abab c", 7)
    assert pushed(text, prompt, list(text.encode("a stop")), ("stop",), held=4) == ("a ", 6)


def test_the_start_of_a_character_is_text_at_the_end_of_a_completion(text: Tokenizer) -> None:
    prompt, ids = list(text.encode("x")), list(text.encode("a日b"))
    assert pushed(text, prompt, ids, (INCOMPLETE,)) == (None, 5)
    assert pushed(text, prompt, ids[:3], (INCOMPLETE,)) == ("a", 3)


def test_bytes_that_never_become_a_character_do_not_block_a_stop(text: Tokenizer) -> None:
    lead = text.encode("日")[0]
    assert lead < VOCABULARY
    assert pushed(text, [lead], [lead] * 40 + list(text.encode("stop")), ("stop",)) == (INCOMPLETE * 40, 44)
