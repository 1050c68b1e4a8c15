"""The host's work beside the engines': what is read ahead, when the host works, and that nothing stays behind."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from spectr_runtime import Decoder, Outcome, Plan, Request, SamplingParams
from spectr_runtime.overlap import Overlap
from spectr_runtime.planning.company import Company

OpenDecoder = Callable[..., Decoder]
PLANS = [Plan.plain(), Plan("kseq", 2, 3)]


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    assert "spectr-host" not in {thread.name for thread in threading.enumerate()}


class Gone(BaseException):
    """Raised where a signal handler would raise."""


def overlap_of(source, take, ahead: int = 4, stopped: Callable[[], bool] = lambda: False) -> Overlap[int, int]:
    return Overlap(source, take, ahead, stopped)


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


def mixed_requests() -> Iterator[Request]:
    for row in range(40):
        params = SamplingParams(max_tokens=row % 7, ignore_eos=row % 2 == 0)
        prompt = (1,) * 60 if row % 9 == 4 else (1, 3, 2)  # too long for the capacity
        yield Request(str(row), prompt, params, echo=row % 5 == 0)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_outcomes_are_those_of_generate_in_the_same_order(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    monkeypatch.setattr(Company, "enough", lambda *numbers: True)  # it goes by the clock, and the order with it

    def told(outcomes: list[Outcome]) -> list[object]:
        return [getattr(one, "error", one) and str(one) for one in outcomes]

    expected, found = list(open_decoder(plan).generate(mixed_requests())), list[Outcome]()
    open_decoder(plan).run(mixed_requests(), found.append)
    assert len(found) == 40
    assert told(found) == told(expected)


def test_requests_and_outcomes_are_on_one_thread_and_passes_on_that_of_the_caller(open_decoder: OpenDecoder) -> None:
    decoder, threads = open_decoder(PLANS[0]), set[str]()
    forward = decoder._loop.pair.target.forward

    def requests() -> Iterator[Request]:
        for row in range(9):
            threads.add(threading.current_thread().name)
            yield Request(str(row), (1, 3, 2), SamplingParams(max_tokens=3))

    def watched(call):
        assert threading.current_thread() is threading.main_thread()
        return forward(call)

    decoder._loop.pair.target.forward = watched  # type: ignore[method-assign]
    decoder.run(requests(), lambda one: threads.add(threading.current_thread().name))
    assert threads == {"spectr-host"}


def test_no_more_rows_are_made_than_are_to_be_read_ahead() -> None:
    made = list[int]()

    def source() -> Iterator[int]:
        for row in range(100):
            made.append(row)
            yield row

    def decode(rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            most = min(row + 1 + 4, 100)
            with overlap.at_work():
                until(lambda most=most: len(made) == most)
                time.sleep(0.001)
            assert len(made) == most
            yield row

    taken = list[int]()
    overlap = overlap_of(source(), taken.append)
    overlap.run(decode)
    assert taken == made == list(range(100))


def test_the_host_works_only_while_an_engine_does() -> None:
    taken = list[int]()

    def take(row: int) -> None:
        taken.append(row)
        overlap.pause()
        taken.append(row)

    def decode(rows: Iterator[int]) -> Iterator[int]:
        until(lambda: overlap._made.qsize() == 0)
        yield from (next(rows), next(rows))
        with overlap.at_work():
            until(lambda: taken)
        before = len(taken)
        time.sleep(0.05)
        assert len(taken) <= before + 3, "a step may end"
        still = len(taken)
        time.sleep(0.05)
        assert len(taken) == still
        assert not list(rows)

    overlap = overlap_of(iter(range(2)), take)
    overlap.run(decode)
    assert taken == [0, 0, 1, 1]


def failing(rows: int) -> Iterator[int]:
    yield from range(rows)
    raise OSError("the store is gone")


def test_an_error_of_the_source_is_raised_after_what_ended_and_before_the_next_pass() -> None:
    taken, passes = list[int](), list[int]()

    def decode(rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            yield row
            while True:
                with overlap.at_work():
                    passes.append(row)
                    until(lambda: overlap._error)

    overlap = overlap_of(failing(3), taken.append)
    with pytest.raises(OSError, match="the store is gone"):
        overlap.run(decode)
    assert taken == [0]
    assert len(passes) <= 1


def test_an_error_of_taking_ends_the_decoding() -> None:
    def take(row: int) -> None:
        raise OSError(f"no space for {row}")

    def decode(rows: Iterator[int]) -> Iterator[int]:
        yield from rows

    with pytest.raises(OSError, match="no space for 0"):
        overlap_of(iter(range(9)), take).run(decode)


@pytest.mark.parametrize("error", [ValueError, Gone])
def test_an_error_of_the_decoder_is_raised_after_what_ended_was_taken(error: type[BaseException]) -> None:
    taken = list[int]()

    def decode(rows: Iterator[int]) -> Iterator[int]:
        yield from (next(rows), next(rows))
        raise error

    with pytest.raises(error):
        overlap_of(iter(range(9)), taken.append).run(decode)
    assert taken == [0, 1]


def test_what_a_signal_handler_raises_leaves_no_thread_behind() -> None:
    ended, taken = threading.Event(), list[int]()

    def take(row: int) -> None:
        ended.wait()
        taken.append(row)

    def on_alarm(number: int, frame: object) -> None:
        ended.set()
        raise Gone

    def decode(rows: Iterator[int]) -> Iterator[int]:
        yield from rows
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # the host still takes, and the decoder waits for it

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with pytest.raises(Gone):
            overlap_of(iter(range(3)), take).run(decode)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert taken == [0, 1, 2]


def test_rows_that_wait_are_not_decoded_once_it_is_stopped() -> None:
    taken = list[int]()

    def decode(rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            with overlap.at_work():
                until(lambda: overlap._made.qsize() == 4)
            yield row

    overlap = overlap_of(iter(range(100)), taken.append, stopped=lambda: bool(taken))
    overlap.run(decode)
    assert 1 <= len(taken) <= 3


def test_what_ended_is_taken_also_where_the_decoder_always_waits_for_rows() -> None:
    most = list[int]()

    def decode(rows: Iterator[int]) -> Iterator[int]:
        for row in rows:
            most.append(len(overlap._ended))
            yield row

    overlap = overlap_of(iter(range(500)), lambda row: None)
    overlap.run(decode)
    assert max(most) <= 4 + 4 + 2


def test_after_an_end_nothing_more_is_read_before_what_ended_is_taken() -> None:
    made, taken = list[int](), list[int]()

    def source() -> Iterator[int]:
        for row in range(9):
            time.sleep(0.1)
            made.append(row)
            yield row

    def on_alarm(number: int, frame: object) -> None:
        raise Gone

    def decode(rows: Iterator[int]) -> Iterator[int]:
        yield next(rows)
        signal.setitimer(signal.ITIMER_REAL, 0.02)  # the decoder waits for the next row then
        yield next(rows)

    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        with pytest.raises(Gone):
            overlap_of(source(), taken.append, ahead=8).run(decode)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert taken == [0]
    assert made in ([0], [0, 1])
