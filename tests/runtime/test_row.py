"""The end of a row, and the text that its tokens then have."""

from __future__ import annotations

import pytest
from tiny_models import VOCABULARY, byte_tokenizer

from spectr_runtime.rows.request import Completion, Request, SamplingParams
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.detokenizer import INCOMPLETE
from spectr_runtime.rows.text.tokenizer import Tokenizer

END = VOCABULARY - 1


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save_pretrained(folder)
    return Tokenizer(folder, VOCABULARY)


def ended(text: Tokenizer, prompt: str, tokens: tuple[int, ...], stop: tuple[str, ...] = ()) -> Completion:
    """The completion of a row that takes tokens, all in one round."""
    request = Request("a", prompt, SamplingParams(max_tokens=len(tokens), stop=stop))
    ids = text.encode(prompt)
    row = Row(request, ids, 0, frozenset({END}), limit=len(ids) + len(tokens), tokenizer=text)
    assert row.extend(tokens)
    return row.completion()


@pytest.mark.parametrize(("end", "reason"), [((), "length"), ((END,), "stop")])
def test_a_character_that_the_row_s_end_cuts_is_text(text: Tokenizer, end: tuple[int, ...], reason: str) -> None:
    tokens = (*text.encode("a日")[:2], *end)
    assert (ended(text, "x", tokens).text, ended(text, "x", tokens).finish_reason) == (f"a{INCOMPLETE}", reason)
    stopped = ended(text, "x", tokens, (INCOMPLETE,))
    assert (stopped.text, stopped.finish_reason, stopped.token_ids) == ("a", "stop", tokens)


def test_a_stop_text_drops_the_tokens_after_it(text: Tokenizer) -> None:
    stopped = ended(text, "日", text.encode("本\nabc"), ("\na",))
    assert (stopped.text, stopped.finish_reason, len(stopped.token_ids)) == ("本", "stop", 5)
