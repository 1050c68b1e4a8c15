"""A submission: the command of a run, which a queue starts once for every rank."""

from __future__ import annotations

import dataclasses
import re

from spectr_runtime.errors import UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class Submission:
    """What every queue has to know of a job.

    Attributes:
        command: ``spectr-batch run`` with its arguments.
        drain_timeout: Seconds that the command needs to stop.
        name: Name of the job, and of its log files.
        ranks: Number of processes that share the run's shards.
        gpus: GPUs per rank.
        cpus: CPU cores per rank.
        memory: Memory per rank, in the queue's own notation; None for the queue's default.
    """

    command: tuple[str, ...]
    drain_timeout: float
    name: str
    ranks: int
    gpus: int
    cpus: int
    memory: str | None


def require(option: str, value: str | None, pattern: str, allowed: str) -> None:
    """Check the value of an option by a rule of the queue; no value is always allowed.

    Args:
        option: The option, for the message.
        value: Its value.
        pattern: A regular expression of the values that the queue takes.
        allowed: The same in words.

    Raises:
        UsageError: The value breaks the rule.
    """
    if value is not None and not re.fullmatch(pattern, value, re.ASCII):
        raise UsageError(f"{option} is {value!r}; allowed is {allowed}.")
