"""The team: the actors of a Ray cluster that are at work, their desk, and new actors for lost ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_jobs.console import say
from spectr_jobs.drivers.actor import Actor
from spectr_jobs.drivers.desk import Desk, DeskState
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.stop import CONTINUE
from spectr_runtime.errors import EngineError, first_line

LOSSES = 3  # of every actor, without a sealed shard between them; more is no accident
TICK_SECONDS = 0.2


class Team:
    """The actors at work.

    Attributes:
        busy: Shards that were left out because another process has them.
    """

    def __init__(
        self,
        ray: Any,
        run: RunDirectory,
        shards: Sequence[int],
        size: int,
        needs: Mapping[str, int],
        work: Sequence[Any],
    ) -> None:
        """Start the desk and the actors.

        Args:
            ray: The module, connected to a cluster.
            run: The run directory.
            shards: What is to be decoded.
            size: How many actors there are at a time.
            needs: What Ray is to reserve for each.
            work: Arguments of ``Actor.decode``.
        """
        self.busy: list[int] = []
        self._ray = ray
        self._run = run
        self._shards = shards
        self._size = size
        self._needs = needs
        self._work = work
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=self._here()).remote(shards)
        self._losses = 0
        self._left = len(shards)
        self._running: dict[Any, tuple[int, Any]] = {}  # by the future of its work: number and handle
        for number in range(min(size, len(shards))):
            self._start_actor(number)

    def state(self) -> DeskState:
        """What the desk knows."""
        state: DeskState = self._ray.get(self._desk.state.remote())
        return state

    def close(self, reason: str) -> None:
        """Let no actor take another shard, and let each finish its rows in flight."""
        self._ray.get(self._desk.close.remote(reason))

    def wait(self) -> None:
        """Wait a little, and replace actors that were lost meanwhile.

        Raises:
            EngineError: Too many were.
            Exception: What an actor raised.
        """
        ended, _ = self._ray.wait(list(self._running), timeout=TICK_SECONDS)
        for future in ended:
            number, _ = self._running.pop(future)
            try:
                self.busy += self._ray.get(future)
                self._ray.get(self._desk.finish.remote(number))
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self._ray.exceptions.RayActorError as error:
                self._replace(number, error)

    def _here(self) -> Any:
        """The machine of this process: the desk lives and ends with it."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)

    def _start_actor(self, number: int) -> None:
        actor = self._ray.remote(Actor).options(**self._needs).remote(number, self._size, Path.cwd(), self._desk)
        self._running[actor.decode.remote(*self._work)] = (number, actor)

    def _replace(self, number: int, error: Exception) -> None:
        """Put up the shards of a lost actor again, and start another in its place."""
        left = sum(not self._run.is_sealed(shard) for shard in self._shards)
        self._losses = 1 if left < self._left else self._losses + 1
        self._left = left
        if self._losses > LOSSES * self._size:
            reason = first_line(error).rstrip(".")
            raise EngineError(
                f"{self._losses} actors were lost without a finished shard between. The last: {reason}.",
                hint=f"Look for the reason in Ray's logs. {CONTINUE}",
            )
        self._ray.get(self._desk.lose.remote(number))
        say(f"actor {number} was lost; its shards are taken up again")
        self._start_actor(number + self._size)
