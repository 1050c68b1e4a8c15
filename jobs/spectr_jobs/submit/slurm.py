"""A Slurm array: one task per rank, a warning ahead of the time limit, and requeueing of what was interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
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
    head = [
        f"#SBATCH --{key}{'=' if value != '' else ''}{value}" for key, value in options.items() if value is not None
    ]
    return "\n".join(["#!/bin/bash", *head, "", *setup, _BODY.format(command=shlex.join(command), restarts=RESTARTS)])


_BODY = """\
srun {command}
code=$?
# 75: interrupted, the same command goes on. Everything else is final.
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
