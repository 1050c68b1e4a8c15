"""The desk, and the team with a Ray that is no cluster: calls run at once, and an actor is lost when it says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectr_jobs.drivers.actor import DeskDisplay
from spectr_jobs.drivers.desk import Desk
from spectr_jobs.drivers.team import LOSSES, Team
from spectr_jobs.errors import InputChanged, Interrupted
from spectr_jobs.records.tally import Tally
from spectr_jobs.work.stop import Stop
from spectr_jobs.work.worker import Skipped
from spectr_runtime import EngineError


def test_the_desk_hands_every_shard_out_once_in_order():
    desk = Desk([3, 1, 2])
    assert [desk.take(0), desk.take(1), desk.take(0), desk.take(1)] == [1, 2, 3, None]
    assert desk.state().outstanding == 3
    desk.finish(0)
    assert desk.state().outstanding == 1


def test_what_a_lost_actor_had_is_handed_out_again_and_it_gets_nothing_more():
    desk = Desk(range(4))
    assert [desk.take(0), desk.take(1), desk.take(0)] == [0, 1, 2]
    desk.lose(0)
    assert desk.take(0) is None
    assert [desk.take(2), desk.take(1), desk.take(2)] == [0, 2, 3]


def test_a_closed_desk_hands_nothing_out_and_takes_nothing_back():
    desk = Desk(range(4))
    desk.take(0)
    desk.close("SIGTERM")
    assert (desk.take(1), desk.state().outstanding) == (None, 1)
    desk.lose(0)
    assert desk.state().outstanding == 0


def test_the_desk_adds_up_what_actors_told_last_and_shows_notes_once():
    desk = Desk([])
    assert desk.report(0, Tally(rows=1), ["torn"]) is None
    desk.report(0, Tally(rows=3), [])
    desk.report(1, Tally(rows=2, failed=1), ["mended"])
    state = desk.state()
    assert (state.tally.rows, state.tally.failed, state.notes) == (5, 1, ("torn", "mended"))
    assert desk.state().notes == ()


def test_the_line_of_an_actor_tells_the_desk_and_brings_back_when_to_stop():
    desk, stop = Desk([]), Stop()
    line = DeskDisplay(lambda tally, notes: desk.report(7, tally, notes), stop)
    line.say("hello")
    line.show(Tally(rows=1), 1.0)
    desk.close("SIGTERM")
    line.show(Tally(rows=2), 1.1)
    assert (desk.state().tally.rows, stop.reason) == (1, None)
    line.clear()
    assert (desk.state().tally.rows, desk.state().notes, stop.reason) == (2, (), "SIGTERM")


class Lost(Exception):
    """Stands for Ray's error about an actor that is no more."""


class Failed(Exception):
    """Stands for Ray's error about what an actor raised."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class FakeRay:
    """Runs every call at once. ``decode`` of an actor is played by a function of its number and the desk."""

    exceptions = SimpleNamespace(RayTaskError=Failed, RayActorError=Lost)

    def __init__(self, play: Callable[[int, Desk], list[int]]) -> None:
        self.play = play
        self.hired: list[int] = []

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: self._handle(kind, given)))

    def _handle(self, kind: type, given: tuple[Any, ...]) -> Any:
        if kind is Desk:
            desk = Desk(*given)
            calls = {name: SimpleNamespace(remote=getattr(desk, name)) for name in ("state", "lose", "finish", "close")}
            return SimpleNamespace(desk=desk, **calls)
        number, _, _, handle = given
        self.hired.append(number)
        return SimpleNamespace(decode=SimpleNamespace(remote=lambda *_: lambda: self.play(number, handle.desk)))

    def get(self, value: Any) -> Any:
        return value() if callable(value) else value

    def wait(self, futures: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return futures[:1], futures[1:]


class Shards:
    """A run directory of which only the seals count."""

    def __init__(self) -> None:
        self.sealed: set[int] = set()

    def is_sealed(self, number: int) -> bool:
        return number in self.sealed


def team_of(
    play: Callable[[int, Desk], list[int]], run: Shards, monkeypatch: pytest.MonkeyPatch
) -> tuple[Team, FakeRay]:
    monkeypatch.setattr(Team, "_here", lambda self: None)
    ray = FakeRay(play)
    return Team(ray, run, range(4), 2, {"num_cpus": 1}, ()), ray  # type: ignore[arg-type]


def to_the_end(team: Team) -> None:
    while team.state().outstanding:
        team.wait()


def test_an_actor_that_is_lost_is_replaced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run = Shards()

    changed = InputChanged("Another.")

    def play(number: int, desk: Desk) -> Skipped:
        while (shard := desk.take(number)) is not None:
            if number == 0:
                raise Lost("The actor died.\nAt length.")
            run.sealed.add(shard)
        return Skipped([number], {number: changed})

    team, ray = team_of(play, run, monkeypatch)
    to_the_end(team)
    assert (run.sealed, ray.hired) == ({0, 1, 2, 3}, [0, 1, 2])
    # The third actor found no shard left, and is not waited for.
    assert (team.skipped.busy, team.skipped.changed) == ([1], {1: changed})
    assert capsys.readouterr().err == "spectr-batch: actor 0 was lost; its shards are taken up again\n"


def test_actors_that_are_lost_again_and_again_end_the_run(monkeypatch: pytest.MonkeyPatch):
    def play(number: int, desk: Desk) -> Skipped:
        desk.take(number)
        raise Lost("The actor died.\nAt length.")

    team, ray = team_of(play, Shards(), monkeypatch)
    with pytest.raises(EngineError) as caught:
        to_the_end(team)
    assert str(caught.value) == (
        "7 actors were lost without a finished shard between. The last: The actor died. "
        "Look for the reason in Ray's logs. Run the same command again to go on."
    )
    assert len(ray.hired) == 2 + 2 * LOSSES


def test_what_an_actor_raised_is_raised_with_its_own_exit_code(monkeypatch: pytest.MonkeyPatch):
    def play(number: int, desk: Desk) -> Skipped:
        raise Failed(Interrupted("stopped."))

    team, _ = team_of(play, Shards(), monkeypatch)
    with pytest.raises(Interrupted, match="stopped"):
        team.wait()


def test_a_device_that_names_one_gpu_is_refused(batch, bundle: Path, prompts: Path, tmp_path: Path):
    result = batch("submit", "ray", "--ranks", 1, "--", bundle, prompts, "-o", tmp_path / "run", "--device", "cuda:1")
    assert result.code == 2
    assert result.err.splitlines()[-1] == (
        "spectr-batch: error: --device cuda:1 names one GPU, but Ray gives every actor one of its own. "
        "Write --device cuda."
    )
