"""The rounds of a row as text for a terminal: what each drafted, what of it was kept, and what the target put in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from spectr_jobs.work.models import Piece
from spectr_runtime.rows.rounds import RowRound

KEPT = "✓"  # stands before a draft that was kept
Tree = Mapping[int, "Tree"]


def render(key: str, completions: int, rounds: Sequence[RowRound], piece: Piece) -> str:
    """Return the rounds of all completions of a record.

    Args:
        key: The record's id.
        completions: The number of its completions.
        rounds: Their rounds, those of each completion in their order.
        piece: Gives the text of a token, and its bytes.
    """
    parts = []
    for choice in range(completions):
        name = f"{key}, completion {choice}" if completions > 1 else key
        of = [one for one in rounds if one.choice == choice]
        parts.append("\n".join([name, *_row(of, piece), ""]) if of else no_rounds(name))
    return "\n".join(parts)


def no_rounds(name: str) -> str:
    """Return what is said of a record or a completion that was not decoded."""
    return f"{name}: there are no rounds\n"


def _row(rounds: Sequence[RowRound], piece: Piece) -> Iterator[str]:
    for one in rounds:
        drafts = f"from {one.source}" if one.source is not None else "no drafts"
        yield f"round {one.number} at {one.position}: {one.plan}, {drafts}"
        yield from _branches(_merged([*one.paths, one.accepted]), one.accepted, "  ", piece)
        yield "  " + _outcome(one, piece)
    written = sum(len(one.written) for one in rounds)
    told = [f"{written / len(rounds):.2f} tokens per pass ({written} in {len(rounds)})"]
    for source in dict.fromkeys(one.source for one in rounds if one.source is not None):
        of = [one for one in rounds if one.source == source]
        # What fills the tree behind a path that was looked up may be accepted too, by chance.
        proposed = sum(max(map(len, (*one.paths, one.accepted))) for one in of)
        accepted = sum(len(one.accepted) for one in of)
        told.append(f"{source}: {accepted} of {proposed} accepted")
    yield "; ".join(told)


def _outcome(one: RowRound, piece: Piece) -> str:
    kept = f"kept {len(one.accepted)}, then " if one.paths else ""
    dropped = f"; {one.dropped} dropped, since the row had ended" if one.dropped else ""
    return f"{kept}the target's {_quoted(one.token, piece)}{dropped}"


def _merged(paths: Sequence[Sequence[int]]) -> Tree:
    """Return the tree of some paths; those that begin alike share their first nodes."""
    root: dict[int, dict] = {}  # type: ignore[type-arg]
    for path in paths:
        node = root
        for token in path:
            node = node.setdefault(token, {})
    return root


def _branches(tree: Tree, kept: Sequence[int], indent: str, piece: Piece) -> Iterator[str]:
    """Yield a line for each branch up to where it forks, and those of its forks below, with a tick at kept tokens."""
    for number, (token, below) in enumerate(tree.items(), 1):
        along, words = kept, list[str]()
        while True:
            on = along[:1] == (token,)
            along = along[1:] if on else ()
            words.append((KEPT if on else "") + _quoted(token, piece))
            if len(below) != 1:
                break
            ((token, below),) = below.items()
        last = number == len(tree)
        yield indent + ("└ " if last else "├ ") + " ".join(words)
        yield from _branches(below, along, indent + ("  " if last else "│ "), piece)


def _quoted(token: int, piece: Piece) -> str:
    """Return a token as JSON, or the bytes of a part of a character; its number where it is no text at all."""
    text, data = piece(token)
    try:
        data.decode()
    except UnicodeDecodeError:
        return f"<{data.hex(' ')}>"
    return json.dumps(text, ensure_ascii=not text.isprintable()) if text else f"<token {token}>"
