"""A corpus keeps the last texts in limited memory, and reads those of a user's file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from spectr_runtime.drafting.corpus import ORDER, Corpus, read_corpus
from spectr_runtime.drafting.suffixes import Match
from spectr_runtime.errors import UsageError


def encode(text: str) -> list[int]:
    return [ord(character) for character in text]


def decoded(path: Path) -> list[str]:
    return ["".join(map(chr, tokens)) for tokens in read_corpus(path, encode)]


@pytest.mark.parametrize("most", [4, 50, 1000])
def test_memory_stays_bounded_and_the_last_half_is_found(most: int) -> None:
    chance, corpus, added = random.Random(most), Corpus(most), list[list[int]]()
    for number in range(200):
        text = [number * 1000 + position for position in range(chance.randint(0, 60))]
        corpus.add(text)
        added.append(text)
        assert len(corpus) <= most
        room = most // 2 - 1
        for recent in reversed(added):
            room -= len(recent) + 1
            if room < 0:
                break
            if len(recent) > ORDER:
                # Where a generation ended within the text, what follows there goes on behind the next few tokens.
                found = [corpus.find(recent[:end], 1, 1) for end in range(ORDER, len(recent))]
                assert sum(match is None for match in found) <= ORDER
                assert all(match.paths == ((recent[end],),) for end, match in enumerate(found, ORDER) if match)
    assert corpus.find(added[0], 1, 1) is None


def test_a_text_longer_than_the_room_leaves_its_end() -> None:
    corpus, text = Corpus(100), list(range(1000))
    corpus.add(text)
    assert len(corpus) <= 100
    # The last generation began with token 980.
    assert corpus.find(text[:995], 1, 2) == Match(15, ((995, 996),), (1.0, 1.0))
    assert corpus.find(text[:500], 1, 2) is None


def test_the_longer_match_is_taken_and_the_young_one_of_two_as_long() -> None:
    filler = list(range(100, 104))
    old, young = [1, 2, 3, 4, 5, 6], [9, 2, 3, 4, 7, 8]
    corpus = Corpus(2 * (len(old) + len(filler) + 2))
    for text in (old, filler, young):
        corpus.add(text)
    assert corpus.find([1, 2, 3, 4], 2, 1) == Match(4, ((5,),), (1.0,))
    assert corpus.find([9, 2, 3, 4], 2, 1) == Match(4, ((7,),), (1.0,))
    assert corpus.find([0, 2, 3, 4], 2, 1) == Match(3, ((7,),), (1.0,))
    assert corpus.find([3, 4, 5], 2, 1) == Match(3, ((6,),), (1.0,))


def test_texts_are_separate() -> None:
    corpus = Corpus(100)
    corpus.add([1, 2, 3])
    corpus.add([4, 5, 6, 7])
    assert corpus.find([1, 2, 3], 1, 1) is None
    assert corpus.find([2, 3, 4], 1, 1) is None
    assert corpus.find([4, 5, 6], 1, 9) == Match(3, ((7,),), (1.0,))


def test_json_lines_have_a_text_each(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    lines = [json.dumps({"id": 1, "text": "a\nb", "token_ids": [1]}), "", json.dumps("say \u00e9 \U0001f600"), "  "]
    path.write_text("\ufeff" + "\n".join([*lines, '{"text": "the last"}']), encoding="utf-8")
    assert decoded(path) == ["a\nb", "say \u00e9 \U0001f600", "the last"]


@pytest.mark.parametrize("name", ["notes.txt", "module.py", "README"])
def test_any_other_file_is_one_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n\xc3\xa9\n')
    assert decoded(path) == ['{"text": "a"}\r\n\n\u00e9\n']


@pytest.mark.parametrize(
    ("line", "got"),
    [
        (b'{"text": "a"', "broken JSON at character 13: Expecting ',' delimiter"),
        (b"plain words", "broken JSON at character 1: Expecting value"),
        (b'{"prompt": "a"}', "an object without a text"),
        (b'{"text": ["a"]}', "an object without a text"),
        (b"[1, 2]", "JSON without a text"),
        (b"null", "JSON without a text"),
        (b'"\\ud800"', "half of a surrogate pair"),
        (b"[" * 100_000, "JSON that cannot be read: "),
        (b"1" * 5000, "JSON that cannot be read: "),
    ],
)
def test_a_line_without_a_text_is_refused_where_it_stands(tmp_path: Path, line: bytes, got: str) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(UsageError) as caught:
        next(read_corpus(path, encode))
    assert caught.value.message.startswith(f"The corpus {path}, line 3: {got}")
    assert caught.value.message.endswith(
        "; allowed is a JSON string, an object with a string `text`, or a line of an output."
    )
    assert "name the file other than .jsonl" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.txt"])
def test_bytes_that_are_no_text_are_refused_where_they_stand(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b'"first"\n"caf\xe9"\n')
    with pytest.raises(UsageError) as caught:
        decoded(path)
    assert caught.value.message == f"The corpus {path}, line 2: byte 0xe9 is not UTF-8 there; allowed is UTF-8."
    assert "iconv" in caught.value.hint


@pytest.mark.parametrize(("name", "reason"), [("missing.txt", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    with pytest.raises(UsageError) as caught:
        decoded(path)
    assert caught.value.message == f"The corpus {path} cannot be read: {reason}; allowed is a file."
    assert caught.value.hint


def test_the_lines_of_every_output_are_read(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "text": "one", "finish_reason": "stop"},
        {"id": "b", "completions": [{"text": "two"}, {"text": "three"}]},
        {"custom_id": "c", "response": {"body": {"choices": [{"text": "four"}]}}},
        {"custom_id": "d", "response": {"body": {"choices": [{"message": {"content": "five"}}]}}},
    ]
    path = tmp_path / "output.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [*read_corpus(path, lambda text: [*text.encode()])] == [
        [*word.encode()] for word in ("one", "two", "three", "four", "five")
    ]


@pytest.mark.parametrize("name", ["large.txt", "large.jsonl"])
def test_the_end_of_a_large_file_is_made_tokens(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole one would take more time and memory than there is; no more than its end would be kept."""
    monkeypatch.setattr("spectr_runtime.drafting.corpus.MOST_TEXT", 50)
    path = tmp_path / name
    lines = [f"{number} é" for number in range(100)]
    text = "\n".join(lines if path.suffix == ".txt" else map(json.dumps, lines))
    path.write_text(text, encoding="utf-8")
    whole = "".join(decoded(path)).replace("\n", "")
    assert "".join(lines).endswith(whole)
    assert 30 <= len(whole) <= 55


def test_a_byte_near_the_end_of_a_large_file_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectr_runtime.drafting.corpus.MOST_TEXT", 50)
    path = tmp_path / "large.txt"
    path.write_bytes(b"a line\n" * 98 + b"\xff\n")
    with pytest.raises(UsageError, match="line 99: byte 0xff is not UTF-8"):
        next(read_corpus(path, encode))
