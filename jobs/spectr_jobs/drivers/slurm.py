"""A Slurm array: one task per rank, a warning ahead of the time limit, and requeueing of what was interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectr_jobs.drivers.submission import Submission

MARGIN = 40  # seconds between the end of the drain and Slurm's kill, for the last writes
RESTARTS = 100


def script(job: Submission, *, folder: Path, time_limit: float, partition: str | None, setup: Sequence[str]) -> str:
    """Return the batch script.

    Args:
        job: What to run.
        folder: Where the job runs.
        time_limit: Seconds that a task gets at a time.
        partition: Where the job is queued; None for the cluster's default.
        setup: Shell commands before the job's own, for instance to activate an environment.
    """
    options = {
        "job-name": job.name,
        "array": f"0-{job.ranks - 1}",
        "ntasks": 1,
        "cpus-per-task": job.cpus,
        "gpus-per-task": job.gpus or None,
        "mem": job.memory,
        "partition": partition,
        "time": _clock(time_limit),
        "signal": f"USR1@{round(job.drain_timeout) + MARGIN}",
        "chdir": shlex.quote(str(folder)),
        "output": f"{job.name}-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }
    head = [line for key, value in options.items() if value is not None for line in _option(key, value)]
    body = _BODY.format(command=shlex.join(job.command), restarts=RESTARTS)
    return "\n".join(["#!/bin/bash", _TITLE, *head, "", *setup, body])


def _option(key: str, value: object) -> Iterator[str]:
    """Yield an option as a line that sbatch reads, below the reason for it."""
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
