"""The team: the actors of a Ray cluster that decode a run, their desk, and new actors in place of lost ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_jobs.console import say
from spectr_jobs.drivers.actor import Actor
from spectr_jobs.drivers.desk import Desk, DeskState
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.stop import CONTINUE
from spectr_jobs.work.worker import Skipped
from spectr_runtime.errors import EngineError, first_line

LOSSES = 3  # losses per actor that may be an accident, if no shard was sealed between them
TICK_SECONDS = 0.2  # between two looks at the actors


class Team:
    """The actors that decode a run.

    Attributes:
        skipped: Shards that were not decoded.
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
            ray: The Ray module, connected to a cluster.
            run: The run directory.
            shards: Numbers of the shards to decode.
            size: Number of actors at a time.
            needs: Resources that Ray is to reserve for each actor.
            work: The arguments of ``Actor.decode``.
        """
        self.skipped = Skipped()
        self._ray = ray
        self._run = run
        self._shards = shards
        self._size = size
        self._needs = needs
        self._work = work
        self._desk = ray.remote(Desk).options(num_cpus=0, scheduling_strategy=self._here()).remote(shards)
        self._losses = 0
        self._left = len(shards)
        # Number and handle of every actor, by the future of its work. The handle is kept because Ray ends an actor that
        # nobody holds.
        self._running: dict[Any, tuple[int, Any]] = {}
        for number in range(min(size, len(shards))):
            self._start_actor(number)

    def state(self) -> DeskState:
        """Return the state of the work, as the desk knows it."""
        state: DeskState = self._ray.get(self._desk.state.remote())
        return state

    def close(self, reason: str) -> None:
        """Let no actor take another shard, and let each finish its rows in flight."""
        self._ray.get(self._desk.close.remote(reason))

    def wait(self) -> None:
        """Wait a little, and replace actors that were lost in the meantime.

        Raises:
            EngineError: Too many actors were lost.
            Exception: An actor raised this error.
        """
        ended, _ = self._ray.wait(list(self._running), timeout=TICK_SECONDS)
        for future in ended:
            number, _ = self._running.pop(future)
            try:
                self.skipped.add(self._ray.get(future))
                self._ray.get(self._desk.finish.remote(number))
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except self._ray.exceptions.RayActorError as error:
                self._replace(number, error)

    def _here(self) -> Any:
        """Return the strategy that starts the desk on this machine, so that it lives as long as this process."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self._ray.get_runtime_context().get_node_id(), soft=False)

    def _start_actor(self, number: int) -> None:
        actor = self._ray.remote(Actor).options(**self._needs).remote(number, self._size, Path.cwd(), self._desk)
        self._running[actor.decode.remote(*self._work)] = (number, actor)

    def _replace(self, number: int, error: Exception) -> None:
        """Let the shards of a lost actor wait again, and start another actor in its place."""
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
