"""The host's work beside the engines': while a pass runs, rows are made ahead, and those that ended are taken.

The decoder stays on the thread of its caller, and the host works on a thread of its own, which is the only one that
reads the source of the rows and hands them on when they ended.

Two threads cannot run Python at once, and one that wants to may wait for the other for milliseconds. So the host works
only while an engine is at work, or while the decoder waits for rows, and keeps still in between, where the decoder
itself runs Python.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Made = TypeVar("Made")
Ended = TypeVar("Ended")


class Abandoned(BaseException):
    """Ends the decoding when the host's work has failed. It does not leave this module."""


# The threads tell each other everything by attributes that only one of them writes, and by queues. No lock of ours is
# taken, so an exception that a signal handler raises can leave none taken.
class Overlap(Generic[Made, Ended]):
    """One decoding, with the host's work beside it.

    Args:
        source: Makes the rows, one after the other.
        take: Takes a row that ended.
        ahead: How many rows are made before the decoder asks for them, at most.
        stopped: Says whether the decoder is to get no more rows, also of those that are made.
    """

    def __init__(
        self, source: Iterable[Made], take: Callable[[Ended], None], ahead: int, stopped: Callable[[], bool]
    ) -> None:
        self._source = iter(source)
        self._take = take
        self._ahead = ahead
        self._stopped = stopped
        self._made: SimpleQueue[Made | None] = SimpleQueue()  # None comes after the last one
        self._ended: deque[Ended] = deque()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._left: SimpleQueue[None] = SimpleQueue()
        self._error: BaseException | None = None
        # Written by the host:
        self._exhausted = False
        self._gone = False
        self._awaited: Callable[[], bool] | None = None  # what the host waits for, if it waits
        # Written by the decoder:
        self._at_work = False
        self._starving = False
        self._over = False
        self._host = threading.Thread(target=self._work, name="spectr-host", daemon=True)

    def run(self, decode: Callable[[Iterator[Made]], Iterable[Ended]]) -> None:
        """Decode, and take what ended, in its order.

        However this ends, all that ended is taken before, unless taking is what failed, and no thread is left. The
        decoding ends before the next pass when the source or ``take`` fails, and what they raised is raised here.

        Args:
            decode: Takes rows and yields them as they end.
        """
        self._host.start()
        try:
            self._ended.extend(decode(self._rows()))
        except Abandoned:
            pass
        finally:
            self._over = True
            self._wakes.put(None)
            self._join()
        if self._error is not None:
            raise self._error

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While the block runs, the host may work: an engine is at work, or the decoder waits."""
        if self._error is not None:
            raise Abandoned
        self._at_work = True
        awaited = self._awaited
        if awaited is not None and awaited():
            self._wakes.put(None)
        try:
            yield
        finally:
            self._at_work = False

    def pause(self) -> None:
        """Wait until the host may work on, in the middle of a row's work: the decoder waits for a step's end."""
        self._wait(lambda: True)

    def _rows(self) -> Iterator[Made]:
        while (row := self._next_row()) is not None:
            yield row

    def _next_row(self) -> Made | None:
        try:
            return None if self._stopped() else self._made.get_nowait()
        except Empty:
            self._starving = True
            with self.at_work():
                row = self._made.get()
            self._starving = False
            return row

    def _join(self) -> None:
        """Wait for the host, also if a signal handler raises something meanwhile.

        A ``Thread.join`` in which a handler raises takes the thread for ended in Python 3.11.
        """
        try:
            self._left.get()
        finally:
            if not self._gone:
                self._join()
        self._host.join()

    def _work(self) -> None:
        try:
            self._serve()
        finally:
            self._gone = True
            self._left.put(None)

    def _serve(self) -> None:
        try:
            while self._comes_to_work():
                urgent = not self._over and self._starving and self._lacks_rows() and len(self._ended) <= self._ahead
                if self._ended and not urgent:
                    self._take(self._ended.popleft())
                else:
                    self._make_one()
        except BaseException as error:  # the thread of the decoder raises it
            self._fail(error)

    def _comes_to_work(self) -> bool:
        """Wait until there is work for the host and the decoder lets it; return False if there will be none."""
        self._wait(self._has_work)
        return not self._over or bool(self._ended)

    def _wait(self, awaited: Callable[[], bool]) -> None:
        """Wait until the decoder lets the host work and something else is true, or until the decoding is over."""
        while not (self._over or (self._at_work and awaited())):
            self._awaited = awaited  # from here on, the decoder wakes the host
            if not (self._over or (self._at_work and awaited())):
                self._wakes.get()
            self._awaited = None

    def _has_work(self) -> bool:
        return bool(self._ended) or self._lacks_rows()

    def _lacks_rows(self) -> bool:
        return not self._exhausted and self._made.qsize() < self._ahead

    def _make_one(self) -> None:
        try:
            row = next(self._source, None)
        except BaseException as error:  # what ended is still taken
            self._fail(error)
            return
        self._exhausted = row is None
        self._made.put(row)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._exhausted = True
        self._made.put(None)
