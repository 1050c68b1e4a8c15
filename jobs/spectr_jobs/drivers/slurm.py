"""A Slurm array: one task per rank, a warning ahead of the time limit, and requeueing of what was interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

MARGIN = 40  # seconds between the end of the drain and Slurm's kill, for the last writes
RESTARTS = 100


def script(
    command: Sequence[str],
    *,
    name: str,
    folder: Path,
    ranks: int,
    gpus: int,
    cpus: int,
    memory: str | None,
    time_limit: float,
    drain_timeout: float,
    partition: str | None,
    setup: Sequence[str],
) -> str:
    """The batch script.

    Args:
        command: ``spectr-batch run`` with its arguments.
        name: Name of the job, and of its log files.
        folder: Where the job runs.
        ranks: Tasks of the array.
        gpus: GPUs of a task.
        cpus: Processors of a task.
        memory: Memory of a task, as Slurm writes it; none for the cluster's default.
        time_limit: Seconds that a task gets at a time.
        drain_timeout: Seconds that the command needs to stop.
        partition: Where it is queued; none for the cluster's default.
        setup: Shell commands before the first, for instance to activate an environment.
    """
    options = {
        "job-name": name,
        "array": f"0-{ranks - 1}",
        "ntasks": 1,
        "cpus-per-task": cpus,
        "gpus-per-task": gpus or None,
        "mem": memory,
        "partition": partition,
        "time": _clock(time_limit),
        "signal": f"USR1@{round(drain_timeout) + MARGIN}",
        "chdir": shlex.quote(str(folder)),
        "output": f"{name}-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }
    head = [line for key, value in options.items() if value is not None for line in _option(key, value)]
    body = _BODY.format(command=shlex.join(command), restarts=RESTARTS)
    return "\n".join(["#!/bin/bash", _TITLE, *head, "", *setup, body])


def _option(key: str, value: object) -> Iterator[str]:
    """A line of sbatch, below the reason for it."""
    if key in _REASONS:
        yield f"# {_REASONS[key]}"
    yield f"#SBATCH --{key}={value}" if value != "" else f"#SBATCH --{key}"


_TITLE = """\
# Decodes a run's shards with the tasks of a Slurm array. Written by `spectr-batch submit slurm`.
# The run directory remembers what is done: any task may be killed, and the array started again, also with another size.
"""
_REASONS = {
    "array": "One task per rank; each takes its part of the shards. Add %N to run no more than N at a time.",
    "time": "Of one start of a task: what is left then is queued again.",
    "signal": "The command is warned so long before: it finishes its rows in flight and ends with 75.",
    "open-mode": "A task that was queued again goes on in its log.",
    "requeue": "Slurm may queue a task again when its node fails or is wanted for another job.",
}
_BODY = """\
srun {command}
code=$?
# 75: interrupted, and the same command goes on. Every other code is final, see `spectr-batch run --help`.
if [ "$code" -eq 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"
