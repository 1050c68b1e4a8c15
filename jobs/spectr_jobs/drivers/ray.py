"""The Ray driver: actors on the machines of a cluster take shards from a desk; a lost actor's shards go to others.

Bundle, inputs and run directory must lie on a file system that all of these machines share.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from spectr_jobs.console import say
from spectr_jobs.drivers.actor import Tools
from spectr_jobs.drivers.rank import Rank
from spectr_jobs.drivers.shards import Part, announce, check_finished, unsealed
from spectr_jobs.drivers.team import Team
from spectr_jobs.errors import Interrupted
from spectr_jobs.extras import load
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models
from spectr_jobs.work.progress import Progress
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import CONTINUE, Stop
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import UsageError, first_line

LOCAL = "local"
OBJECT_STORE = 80 * 2**20  # bytes, about the least that Ray accepts; rows travel through files, not through Ray


@dataclasses.dataclass(frozen=True, slots=True)
class Cluster:
    """The driver that decodes all shards with the actors of a Ray cluster.

    Attributes:
        address: Address of the cluster, as Ray writes it; ``local`` for a new cluster on this machine.
        actors: Number of actors at a time.
        cpus: CPU cores of an actor.
        gpus: GPUs of an actor, reserved only if the device is ``cuda``.
    """

    address: str
    actors: int
    cpus: int
    gpus: int

    @property
    def rank(self) -> Rank:
        """The only rank, with all shards."""
        return Rank(0, 1, "Ray")

    def decode(
        self, run: RunDirectory, bundle: Bundle, setup: Setup, stop: Stop, echo: BinaryIO | None
    ) -> Collection[int]:
        """Decode the shards that are not sealed; see ``Driver.decode``.

        Raises:
            UsageError: Ray is not installed, there is no cluster at the address, or the device is a GPU by its number.
            EngineError: Actors were lost again and again.
        """
        assert echo is None
        needs = self._needs(setup)
        if not (left := unsealed(run, run.shards)):
            return ()
        run.summary.unlink(missing_ok=True)  # what an earlier session wrote is no longer true
        remaining = sum(map(run.manifest.size_of, left))
        before = run.tally(left)
        progress = Progress(sys.stderr, run.manifest.records)
        progress.skip(run.manifest.records - remaining + before.rows + before.failed)
        with self._joined(needs, stop) as ray:
            announce(run, setup, remaining, f"{self.actors} Ray actors")
            try:
                part = Part(left, among=min(self.actors, len(left)), beside=_beside(ray.nodes(), self.actors))
                work = (run, bundle.path, setup, part, Tools(models.choose_batch, models.open_decoder))
                team = Team(ray, run, left, self.actors, needs, work)
                rows = _oversee(team, progress, stop)
            except ray.exceptions.RayError as error:
                raise Interrupted(f"Ray failed: {first_line(error).rstrip('.')}.", hint=CONTINUE) from error
        check_finished(run, team.skipped, stop, rows)
        return ()

    def _needs(self, setup: Setup) -> dict[str, int]:
        """Return the resources that Ray is to reserve for an actor."""
        if setup.device.startswith("cuda:"):
            message = f"--device {setup.device} names one GPU, but Ray gives every actor one of its own."
            raise UsageError(message, hint="Write --device cuda.")
        return {"num_cpus": self.cpus, "num_gpus": self.gpus if setup.device == "cuda" else 0}

    @contextlib.contextmanager
    def _joined(self, needs: dict[str, int], stop: Stop) -> Iterator[Any]:
        """Give the Ray module, connected to the cluster.

        Ray installs signal handlers and prints its troubles to stdout. Both are undone: the handlers of ``stop`` are
        installed again, and Ray's messages go to stderr.
        """
        ray: Any = load("ray", "ray", "submit ray")
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **self._own())
        except (ConnectionError, ValueError) as error:
            raise UsageError(
                f"--address {self.address}: {first_line(error).rstrip('.')}.", hint="Is the cluster up?"
            ) from error
        try:
            stop.install()
            for message in _lacks(ray.cluster_resources(), needs):
                say(message)
            with contextlib.redirect_stdout(sys.stderr):
                yield ray
        finally:
            ray.shutdown()

    def _own(self) -> dict[str, Any]:
        """Return the options that start a new cluster on this machine, just large enough; none for one that exists."""
        if self.address != LOCAL:
            return {}
        return {
            "num_cpus": self.actors * self.cpus,
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE,
        }


def _beside(nodes: Sequence[Mapping[str, Any]], actors: int) -> int:
    """Return how many actors may share a machine, if a cluster spreads them evenly over its nodes."""
    alive = sum(bool(node["Alive"]) for node in nodes)
    return -(-actors // max(alive, 1))


def _lacks(there: dict[str, float], needs: dict[str, int]) -> Iterator[str]:
    """Yield a warning for every resource of which the whole cluster has too little for one actor."""
    for name, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if needs[name] > there.get(resource, 0):
            yield (
                f"warning: an actor needs {needs[name]} {resource}, the cluster has {there.get(resource, 0):g} in all; "
                "waiting for it to grow"
            )


def _oversee(team: Team, progress: Progress, stop: Stop) -> int:
    """Watch the actors until no shard is outstanding, or the time to drain is over.

    Returns:
        The number of rows that the actors have reported.
    """
    started = time.monotonic()
    state = team.state()
    with stop.gently():
        while state.outstanding:
            if stop.reason is not None:
                team.close(stop.reason)
            team.wait()
            state = team.state()
            for note in state.notes:
                progress.say(note)
            progress.show(state.tally, time.monotonic() - started)
    progress.clear()
    return state.tally.rows + state.tally.failed
