"""Which of the waiting rows get room."""

from __future__ import annotations

from spectr_runtime.rows.admission import AHEAD, Waiting
from spectr_runtime.rows.row import Row

LENGTHS = (40, 3, 41, 5, 39, 4, 2, 44)


class Sized(Row):
    """A row of which only the length counts."""

    def __init__(self, size: int) -> None:
        self.tokens = [0] * size

    def evict(self) -> None:
        """See ``Row``; there is no cache."""


def lengths(waiting: Waiting, room: int) -> list[int]:
    return [one.length for one in waiting.take(room) if isinstance(one, Row)]


def test_rows_of_about_one_length_get_room_together_and_the_first_is_never_passed_over() -> None:
    waiting, taken = Waiting(map(Sized, LENGTHS)), []
    while not waiting.ended:
        taken.append(lengths(waiting, 2))
    assert taken == [[40, 41], [3, 4], [5, 2], [39, 44]] + [[]] * (len(taken) - 4)
    assert [len(lengths(Waiting(map(Sized, LENGTHS)), room)) for room in (0, 1, 3, 20)] == [0, 1, 3, 8]


def test_no_more_rows_are_made_than_are_looked_at() -> None:
    made = []
    waiting = Waiting(Sized(made.append(number) or 9) for number in range(100))
    for room, seen in ((1, 1), (0, 1), (1, 2), (3, 2 + 3 * AHEAD)):
        lengths(waiting, room)
        assert len(made) == seen


def test_after_a_stop_only_those_that_lost_their_room_get_it_again() -> None:
    stopped = False
    waiting = Waiting(map(Sized, LENGTHS), lambda: stopped)
    assert lengths(waiting, 2) == [40, 41]
    stopped = True
    waiting.evict(Sized(7))
    assert lengths(waiting, 2) == [7]
    assert lengths(waiting, 2) == []
