"""What followed the longest suffix of a text that occurred before, against a search through all texts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from spectr_runtime.drafting.suffixes import COUNTED, LATEST, LONGEST, Match, SuffixIndex

Tokens = Sequence[int]


def searched(texts: Sequence[Tokens], suffix: Tokens, order: int, paths: int, length: int) -> Match | None:
    """Return what an index of these texts has to find."""
    ends = [(text, end) for text in texts for end in range(order, len(text))]
    ends = [(text, end) for text, end in ends if common_end(text[:end], suffix) >= order][::-1][:LATEST]
    if not ends:
        return None
    matched = max(common_end(text[:end], suffix) for text, end in ends)
    followed = [tuple(text[end : end + length]) for text, end in ends if common_end(text[:end], suffix) == matched]
    found = ranked(followed[:COUNTED], paths)
    counted = len(followed[:COUNTED])
    agreeing = [frequency(followed[:COUNTED], found[0][:depth]) / counted for depth in range(1, len(found[0]) + 1)]
    return Match(matched, found, tuple(agreeing))


def common_end(text: Tokens, suffix: Tokens) -> int:
    lengths = range(min(len(text), len(suffix), LONGEST), 0, -1)
    return next((length for length in lengths if list(text[-length:]) == list(suffix[-length:])), 0)


def frequency(followed: Sequence[tuple[int, ...]], start: tuple[int, ...]) -> int:
    return sum(path[: len(start)] == start for path in followed)


def ranked(followed: Sequence[tuple[int, ...]], most: int) -> tuple[tuple[int, ...], ...]:
    """Return the paths, each found among all beginnings of continuations that no path before it has."""
    starts = list(dict.fromkeys(path[:depth] for path in followed for depth in range(1, len(path) + 1)))
    found = list[tuple[int, ...]]()

    def rank(start: tuple[int, ...]) -> tuple[int, int, int]:
        left = [path[: len(start) - 1] for path in found].index(start[:-1]) if found else 0
        return frequency(followed, start), -len(start), -left

    while len(found) < most:
        covered = {path[:depth] for path in found for depth in range(1, len(path) + 1)} | {()}
        ways = [start for start in starts if start not in covered and start[:-1] in covered]
        if not ways:
            break
        path = max(ways, key=rank)
        while further := [start for start in starts if start[:-1] == path]:
            path = max(further, key=lambda start: frequency(followed, start))
        found.append(path)
    return tuple(found)


def index_of(order: int, *texts: Tokens) -> SuffixIndex:
    """Return an index of these texts, of which the last one is open."""
    index = SuffixIndex(order)
    for number, text in enumerate(texts):
        if number:
            index.end_text()
        index.extend(text)
    return index


def random_texts(chance: random.Random) -> list[list[int]]:
    """Return texts over few tokens that repeat stretches of themselves."""
    tokens, texts = chance.randint(1, 4), list[list[int]]()
    for _ in range(chance.randint(1, 4)):
        text = list[int]()
        for _ in range(chance.randint(0, 12)):
            start = chance.randrange(len(text) + 1)
            text += [*text[start : start + chance.randint(0, 40)], chance.randrange(tokens)]
        texts.append(text)
    return texts


@pytest.mark.parametrize("seed", range(300))
def test_an_index_finds_what_a_search_through_all_texts_finds(seed: int) -> None:
    chance = random.Random(seed)
    texts, order = random_texts(chance), chance.randint(1, 4)
    at_once, in_pieces = index_of(order, *texts), SuffixIndex(order)
    for number, text in enumerate(texts):
        if number:
            in_pieces.end_text()
        start = 0
        while start < len(text):
            end = start + chance.randint(1, 3)
            in_pieces.extend(text[start:end])
            start = end
    assert len(at_once) == len(in_pieces) == sum(map(len, texts)) + len(texts) - 1
    stretch = chance.choice(texts)
    for suffix in (texts[-1], stretch[: chance.randrange(len(stretch) + 1)], [chance.randrange(4) for _ in range(5)]):
        paths, length = chance.randint(1, 6), chance.randint(1, 8)
        expected = searched(texts, suffix, order, paths, length)
        assert at_once.find(suffix, paths, length) == expected
        assert in_pieces.find(suffix[-LONGEST:], paths, length) == expected


def test_paths_follow_the_counts_of_what_came_next() -> None:
    text = [1, 2, 5, 6, 0, 1, 2, 5, 7, 0, 1, 2, 8, 9, 0, 1, 2, 5, 7, 0, 3, 1, 2]
    match = index_of(2, text).find(text, 4, 2)
    assert match == Match(2, ((5, 7), (8, 9), (5, 6)), (0.75, 0.5))
    match = index_of(2, text).find([0, 1, 2], 4, 3)
    assert match == Match(3, ((5, 7, 0), (8, 9, 0)), (2 / 3, 2 / 3, 2 / 3))


def test_of_tokens_as_frequent_a_path_takes_the_one_that_came_last() -> None:
    text = [1, 2, 5, 1, 2, 6, 1, 2, 7, 3, 1, 2]
    assert index_of(2, text).find(text, 2, 1) == Match(2, ((7,), (6,)), (1 / 3,))


@pytest.mark.parametrize("closed", [True, False])
def test_the_end_of_a_text_is_no_occurrence(closed: bool) -> None:
    index = index_of(2, [1, 2, 3])
    if closed:
        index.end_text()
    assert index.find([2, 3], 1, 4) is None
    assert index.find([1, 2], 1, 4) == Match(2, ((3,),), (1.0,))


def test_neither_a_match_nor_what_follows_spans_two_texts() -> None:
    index = index_of(2, [1, 2, 3], [4, 5, 1, 2, 3, 6], [7])
    assert index.find([2, 3], 1, 4) == Match(2, ((6,),), (1.0,))  # not what the second text begins with
    assert index.find([3, 4], 1, 4) is None
    assert index.find([2, 3, 4, 5], 1, 2) == Match(2, ((1, 2),), (1.0, 1.0))
    assert index.find([6, 7], 1, 4) is None


def test_a_suffix_shorter_than_the_order_finds_nothing() -> None:
    index = index_of(3, [1, 2, 3, 1, 2, 3])
    assert index.find([2, 3], 1, 1) is None
    assert index.find([], 1, 1) is None
    assert SuffixIndex(3).find([1, 2, 3], 1, 1) is None


def test_tokens_that_share_a_key_are_told_apart() -> None:
    large = (1 << 20) + 5
    index = index_of(2, [9, 1, 5, 7, 9, 1, large, 8])
    assert index.find([1, 5], 2, 1) == Match(2, ((7,),), (1.0,))
    assert index.find([1, large], 2, 1) == Match(2, ((8,),), (1.0,))
    assert index_of(2, [1, 5, 7]).find([1, large], 2, 1) is None


def test_a_match_is_counted_up_to_a_limit_in_occurrences_up_to_a_limit() -> None:
    text = list(range(LONGEST + 5)) * 2
    assert index_of(2, text).find(text, 1, 1) == Match(LONGEST, ((0,),), (1.0,))
    rare = [3, 1, 2, 9] + [4, 1, 2, 8] * LATEST  # the longer match lies behind those that are looked at
    assert index_of(2, rare).find([3, 1, 2], 2, 1) == Match(2, ((8,),), (1.0,))
    assert index_of(2, rare[:-4]).find([3, 1, 2], 2, 1) == Match(3, ((9,),), (1.0,))
