"""Where the end of a text occurred before, and what followed there.

Texts repeat what stands in their prompts and in each other. So what followed the longest suffix of a text that occurred
before is a good draft, at the price of a look-up (prompt look-up decoding; SuffixDecoding, arXiv 2411.04975).

Occurrences are found by chains, as in deflate (RFC 1951, section 4): a dict leads from the last few tokens of a suffix
to where they occurred last, and each occurrence to the one before it. A suffix tree would find more than the last of
them, and take many times the memory and the time for each token.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

LONGEST = 32  # tokens; a longer match would hardly tell more
LATEST = 32  # occurrences that are looked at, the last ones; what was written last is the most like what comes
# Of these, the occurrences that count, so that a find is cheap where a text says one thing over and over. More of them
# would hardly make better drafts.
COUNTED = 8
_END = -1  # stands in the list of tokens where a text ends; no token of a suffix equals it
_BITS = 20  # of a token in a key. Tokens with more would share keys, which costs time and changes nothing.

_Path = tuple[int, ...]


class Match(NamedTuple):
    """The longest suffix of a text that occurred before, and what followed it.

    Attributes:
        matched: Length of the suffix in tokens, up to ``LONGEST``.
        paths: What followed, the most frequent path first. Paths may begin alike; none is the beginning of another.
        agreeing: For each token of the first path, the share of the occurrences that agree with the path up to there.
    """

    matched: int
    paths: tuple[_Path, ...]
    agreeing: tuple[float, ...]


class SuffixIndex:
    """Texts in which suffixes are found. Texts are separate: nothing that is found spans two of them.

    Its length is the number of tokens and of text ends.

    Args:
        order: The shortest suffix that is found, in tokens. A text shorter than that finds nothing.
    """

    def __init__(self, order: int) -> None:
        self._order = order
        self._mask = (1 << _BITS * order) - 1
        # Position 0 ends a text that is not there, so that 0 can stand for no position.
        self._tokens = array("i", [_END])
        self._previous = array("i", [0])  # for each position, the last one before it that follows the same key
        self._latest: dict[int, int] = {}  # for each key, the last position that follows it
        self._key = self._mask  # the last tokens of the text, in one integer; beyond its start, no token's bits

    def __len__(self) -> int:
        return len(self._tokens) - 1

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the last text.

        An occurrence is entered when the token behind it comes. So none is found that nothing follows, as is the end of
        a text.
        """
        latest, enter = self._latest, self._previous.append
        key, mask = self._key, self._mask
        for position, token in enumerate(tokens, len(self._tokens)):
            enter(latest.get(key, 0))
            latest[key] = position
            key = (key << _BITS | token) & mask
        self._key = key
        self._tokens.extend(tokens)

    def end_text(self) -> None:
        """End the last text; what comes is another one."""
        self._tokens.append(_END)
        self._previous.append(0)
        self._key = self._mask

    def find(self, suffix: Sequence[int], paths: int, length: int) -> Match | None:
        """Return what followed the longest suffix of a text that occurred before, if any did.

        Of the last occurrences of the text's last ``order`` tokens, those count that match it longest. The first path
        takes the most frequent token at each step. Each further path leaves those before it where the most occurrences
        go on with one token, of the occurrences that agree with none of them. Where as many do, it leaves nearest to
        the root, then from the earliest path. Of tokens that are as frequent, a path takes the one that came last.

        Args:
            suffix: The text, or its last ``LONGEST`` tokens.
            paths: The most paths, at least 1.
            length: The most tokens of a path, at least 1.
        """
        matched, positions = self._occurrences(suffix)
        if not positions:
            return None
        found, agreeing = _merge([self._followed(position, length) for position in positions], paths)
        return Match(matched, found, tuple([count / len(positions) for count in agreeing]))

    def _followed(self, position: int, length: int) -> _Path:
        """Return at most so many tokens from a position on, up to the end of a text."""
        path = tuple(self._tokens[position : position + length])
        return path[: path.index(_END)] if _END in path else path

    def _occurrences(self, suffix: Sequence[int]) -> tuple[int, list[int]]:
        """Return how long the suffix matches, and the positions that follow its occurrences, the last one first."""
        matched, kept = self._order, list[int]()
        if len(suffix) < matched:
            return 0, kept
        key = 0
        for token in suffix[-matched:]:
            key = key << _BITS | token
        tokens, previous = self._tokens, self._previous
        position = self._latest.get(key & self._mask, 0)
        wanted, longest = array("i", suffix[-matched:]), min(len(suffix), LONGEST)
        for _ in range(LATEST):
            if not position or (matched == longest and len(kept) == COUNTED):
                break
            if tokens[position - matched : position] == wanted:  # at the start of the list, a slice is too short
                longer = matched
                while longer < longest and tokens[position - longer - 1] == suffix[-longer - 1]:
                    longer += 1
                if longer > matched:
                    matched, wanted, kept = longer, array("i", suffix[-longer:]), []
                if len(kept) < COUNTED:
                    kept.append(position)
            position = previous[position]
        return matched, kept


# Of paths that begin alike: how many they are, the negative number of tokens in which they agree, and the paths.
_Branch = tuple[int, int, list[_Path]]
_rank = itemgetter(0, 1)


def _merge(followed: list[_Path], most: int) -> tuple[tuple[_Path, ...], list[int]]:
    """Merge what followed occurrences, the last one first, into at most so many paths, the most frequent first.

    Returns:
        The paths, and for each token of the first one, how many occurrences agree with the path up to there.
    """
    branches = list[_Branch]()
    path, agreeing = _follow(followed, 0, branches)
    found = [path]
    while branches and len(found) < most:
        branch = max(branches, key=_rank)
        branches.remove(branch)
        found.append(_follow(branch[2], -branch[1], branches)[0])
    return tuple(found), agreeing


def _follow(followed: list[_Path], depth: int, branches: list[_Branch]) -> tuple[_Path, list[int]]:
    """Follow the most frequent tokens to the end; return the path, and how many agree at each step.

    Args:
        followed: What followed occurrences, the last one first.
        depth: In how many tokens they agree.
        branches: What the path leaves aside is added here.
    """
    agreeing = list[int]()
    while followed.count(followed[0]) < len(followed):
        ways = dict[int, list[_Path]]()
        for path in followed:
            if len(path) > depth:
                ways.setdefault(path[depth], []).append(path)
        depth += 1
        followed = max(ways.values(), key=len)
        agreeing.append(len(followed))
        branches += [(len(way), -depth, way) for way in ways.values() if way is not followed]
    return followed[0], agreeing + [len(followed)] * (len(followed[0]) - depth)
