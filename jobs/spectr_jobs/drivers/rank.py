"""The rank: the part of the shards that this process decodes, set by options or by a scheduler's variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from spectr_runtime.errors import UsageError

Environment = Mapping[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Rank:
    """One of several processes at work on a run.

    A rank says with which shards a process begins. It is no assignment: a process that has done its own takes what the
    others leave, so any ranks of a world finish a run.

    Attributes:
        index: Index of the rank, from 0. One outside the world begins where the index modulo the world does.
        world: Number of ranks. It may differ each time that the run is continued, since the files of the run say what
            is done, and not which rank did it.
        source: The option or the variable that set the rank, for messages.
        beside: How many ranks may share the memory of this machine, this one included.

    Raises:
        UsageError: There is no rank in the world, or the index is negative.
    """

    index: int
    world: int
    source: str
    beside: int = 1

    def __post_init__(self) -> None:
        if self.world < 1 or self.index < 0:
            raise UsageError(
                f"Rank {self.index} of {self.world} (set by {self.source}); allowed are ranks from 0, of at least 1.",
                hint="Pass --rank and --world.",
            )

    def shards(self, count: int) -> range:
        """Return the shards with which this rank begins, of so many in all: every ``world``-th, from its index on."""
        return range(self.index % self.world, count, self.world)

    def __str__(self) -> str:
        return f"rank {self.index} of {self.world} (set by {self.source})"


def detect(rank: int | None, world: int | None, environment: Environment) -> Rank:
    """Return the rank of this process.

    The first of these that sets a rank wins: the options (also as ``SPECTR_RANK`` and ``SPECTR_WORLD``), a Slurm array,
    a Slurm step, a Kubernetes Indexed Job, SkyPilot. If none does, the process is rank 0 of 1.

    Args:
        rank: The value of ``--rank``.
        world: The value of ``--world``. It may come without ``--rank`` in a Kubernetes Indexed Job, where a variable
            holds the index of the pod, but none the number of pods.
        environment: The environment variables of the process.

    Raises:
        UsageError: A variable is not a number, or of index and world only one is known.
    """
    if rank is not None:
        if world is None:
            raise UsageError("--rank came without --world.", hint="Pass both.")
        return Rank(rank, world, "--rank and --world", beside=max(world, 1))  # nothing says on which machines they are
    for source in _SOURCES:
        if (found := source(environment, world)) is not None:
            return found
    if world not in (None, 1):
        raise UsageError(f"--world {world} came without --rank, and no scheduler set one.", hint="Pass both.")
    return Rank(0, 1, "default")


def _slurm_array(environment: Environment, world: int | None) -> Rank | None:
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return None
    task, first = (_number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "MIN"))
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT")
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", default=1)
    process, processes = _slurm_process(environment) or (0, 1)
    index = (task - first) // step * processes + process
    return Rank(index, count * processes, "SLURM_ARRAY_TASK_ID", beside=_slurm_beside(environment, processes))


def _slurm_step(environment: Environment, world: int | None) -> Rank | None:
    process = _slurm_process(environment)
    if process is None:
        return None
    return Rank(*process, "SLURM_PROCID", beside=_slurm_beside(environment, process[1]))


def _slurm_beside(environment: Environment, processes: int) -> int:
    """Return how many tasks of a step may run on one machine, if Slurm spreads them evenly."""
    return -(-processes // max(_number(environment, "SLURM_STEP_NUM_NODES", default=1), 1))


def _slurm_process(environment: Environment) -> tuple[int, int] | None:
    """Return index and number of the tasks of a step; None outside of a step.

    A batch script that does not start the command with srun runs it once, however many tasks were allocated.
    """
    if "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        return None
    tasks = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environment else "SLURM_NTASKS"
    return _number(environment, "SLURM_PROCID"), _number(environment, tasks)


def _kubernetes(environment: Environment, world: int | None) -> Rank | None:
    if "JOB_COMPLETION_INDEX" not in environment:
        return None
    if world is None:
        raise UsageError(
            "JOB_COMPLETION_INDEX is the rank of this pod, but the number of ranks is not set.",
            hint="Set SPECTR_WORLD to the job's `completions`.",
        )
    return Rank(_number(environment, "JOB_COMPLETION_INDEX"), world, "JOB_COMPLETION_INDEX")


def _skypilot(environment: Environment, world: int | None) -> Rank | None:
    if "SKYPILOT_NODE_RANK" not in environment:
        return None
    return Rank(
        _number(environment, "SKYPILOT_NODE_RANK"), _number(environment, "SKYPILOT_NUM_NODES"), "SKYPILOT_NODE_RANK"
    )


_SOURCES: tuple[Callable[[Environment, int | None], Rank | None], ...] = (
    _slurm_array,
    _slurm_step,
    _kubernetes,
    _skypilot,
)


def _number(environment: Environment, name: str, default: int | None = None) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    if text is None or not text.isdecimal():
        raise UsageError(f"{name} is {text!r}; it must be a number.", hint="Pass --rank and --world.")
    return int(text)
