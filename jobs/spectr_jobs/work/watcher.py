"""The watcher: sees to it that the rounds of a few rows of a session are kept, for the page that shows them."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from spectr_jobs.work.models import Piece
from spectr_runtime.rows.request import Completion, Outcome, Request
from spectr_runtime.rows.rounds import RowRound

MOST = 12  # rows that the first session of a run keeps; each later one keeps half as many as the one before it
LEADING = 6  # the first rows are watched, and then one whenever so many times 2, 4, 8, ... were begun
MOST_TOKENS = 400  # of a row that are kept


class Watcher:
    """Watches the first completions of some records, and tells of each that ends what its rounds wrote.

    Requests are watched on one thread, and rounds arrive on another, always before their row ends.

    Args:
        earlier: Number of sessions of the run before this one.
        piece: Gives the text of a token, and its bytes.
    """

    def __init__(self, earlier: int, piece: Piece) -> None:
        self._left = MOST >> earlier
        self._piece = piece
        self._begun = 0
        self._rounds: dict[str, list[RowRound]] = {}

    def watched(self, requests: Iterable[Request]) -> Iterator[Request]:
        """Yield the requests of a record, the first of them watched if it is this record's turn."""
        for request in requests:
            if request.choice == 0 and self._takes():
                rounds = self._rounds[request.id] = []
                request = dataclasses.replace(request, watch=rounds.append)
            yield request

    def _takes(self) -> bool:
        number, leap = self._begun, self._begun // LEADING
        self._begun += 1
        if not self._left or not (number < LEADING or (number % LEADING == 0 and leap & (leap - 1) == 0)):
            return False
        self._left -= 1
        return True

    def ended(self, outcome: Outcome) -> dict[str, Any] | None:
        """Return what the rounds of a row wrote, as JSON values; None for a row that was not watched, or failed."""
        rounds = self._rounds.pop(outcome.id, None) if outcome.choice == 0 else None
        if not rounds or not isinstance(outcome, Completion):
            return None
        return {"id": outcome.id, "tokens": len(outcome.token_ids), "rounds": self._told(rounds)}

    def _told(self, rounds: Sequence[RowRound]) -> list[dict[str, Any]]:
        """Return what each round wrote: the texts of its tokens, the first ``drafted`` of which were drafts.

        A character that several tokens make up is text of the last of them.
        """
        decoder, told = codecs.getincrementaldecoder("utf-8")("replace"), list[dict[str, Any]]()
        for one in itertools.takewhile(lambda one: one.position < MOST_TOKENS, rounds):
            texts = [decoder.decode(data) if data else text for text, data in map(self._piece, one.written)]
            drafted = min(len(one.accepted), len(texts))
            told.append({"plan": one.plan, "source": one.source, "drafted": drafted, "texts": texts})
        told[-1]["texts"][-1] += decoder.decode(b"", final=True)
        return told
