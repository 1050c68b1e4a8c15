"""A submission: the command of a run, as a queue is to run it once for each rank."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """What every queue must know of a job.

    Attributes:
        command: ``spectr-batch run`` with its arguments.
        drain_timeout: Seconds that the command needs to stop.
        name: Name of the job, and of its log files.
        ranks: Processes that share the run's shards.
        gpus: GPUs of a rank.
        cpus: Processors of a rank.
        memory: Memory of a rank, as the queue writes it; None for the queue's default.
    """

    command: tuple[str, ...]
    drain_timeout: float
    name: str
    ranks: int
    gpus: int
    cpus: int
    memory: str | None
