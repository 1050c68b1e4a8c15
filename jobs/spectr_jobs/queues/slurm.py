"""A Slurm array with one task per rank: a task is warned before its time limit, and queued again if interrupted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectr_jobs.clock import show_duration
from spectr_jobs.queues.submission import Submission, require
from spectr_runtime.errors import UsageError

MARGIN = 40  # seconds between the end of the drain and Slurm's kill, for the last writes
RESTARTS = 100  # a task that is interrupted more often is not queued again and ends with exit code 75


def script(job: Submission, *, folder: Path, time_limit: float, partition: str | None, setup: Sequence[str]) -> str:
    """Return the batch script.

    Args:
        job: The command, and the resources of a rank.
        folder: Working directory of the job.
        time_limit: Seconds of one start of a task.
        partition: Partition of the job; None for the cluster's default.
        setup: Shell commands to run before the command, for instance to activate an environment.

    Raises:
        UsageError: The time limit leaves no time before the warning, or Slurm would not take a value.
    """
    _check(job, folder, partition)
    warning = round(job.drain_timeout) + MARGIN
    if time_limit <= warning:
        raise UsageError(
            f"--time is {show_duration(time_limit)}, but a task is warned {show_duration(warning)} before that; "
            "allowed is a longer time.",
            hint="Raise --time, or lower --drain-timeout.",
        )
    options = {
        "job-name": job.name,
        "array": f"0-{job.ranks - 1}",
        "ntasks": 1,
        "cpus-per-task": job.cpus,
        "gpus-per-task": job.gpus or None,
        "mem": job.memory,
        "partition": partition,
        "time": _clock(time_limit),
        "signal": f"USR1@{warning}",
        "chdir": f'"{folder}"' if shlex.quote(str(folder)) != str(folder) else folder,
        "output": f"{job.name}-%A_%a.log",
        "open-mode": "append",
        "requeue": "",
    }
    head = [line for key, value in options.items() if value is not None for line in _option(key, value)]
    body = _BODY.format(command=shlex.join(job.command), restarts=RESTARTS)
    return "\n".join(["#!/bin/bash", _TITLE, *head, "", *setup, body])


def _check(job: Submission, folder: Path, partition: str | None) -> None:
    """Check values by Slurm's rules: names without what sbatch or the shell would read otherwise, sizes with units."""
    require("--name", job.name, r"[\w.\-]{1,200}", "up to 200 letters, digits, dots, - and _, without blanks")
    require("--partition", partition, r"[\w.\-]+(,[\w.\-]+)*", "a partition, or several with commas between them")
    require("--memory", job.memory, r"\d+[KMGT]?", "a number of megabytes, or one with K, M, G or T, such as 64G")
    if set("\"'\\\n") & set(str(folder)):
        raise UsageError(
            f"The folder {folder} has a quote, a backslash or a line break in its name, which sbatch cannot be told.",
            hint="Submit from another folder.",
        )


def _option(key: str, value: object) -> Iterator[str]:
    """Yield the reason for an option as a comment, if there is one, and the option as a line that sbatch reads."""
    if key in _REASONS:
        yield f"# {_REASONS[key]}"
    yield f"#SBATCH --{key}={value}" if value != "" else f"#SBATCH --{key}"


_TITLE = """\
# Decodes a run's shards with the tasks of a Slurm array. Written by `spectr-batch submit slurm`.
# The run directory remembers what is done: any task may be killed, and the array started again, also with another size.
"""
_REASONS = {
    "array": "One task per rank; each decodes its part of the shards. Add %N to run no more than N tasks at a time.",
    "time": "Time limit of one start of a task. A task that is not done by then is queued again.",
    "signal": "The command is warned so many seconds before its limit. It finishes rows in flight and ends with 75.",
    "open-mode": "A task that was queued again continues its log file.",
    "requeue": "Slurm may queue a task again when its node fails or is wanted for another job.",
}
_BODY = """\
srun {command}
code=$?
# 75: interrupted, and the same command continues. Every other code is final, see `spectr-batch run --help`.
if [ "$code" -eq 75 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def _clock(seconds: float) -> str:
    """Return a duration as Slurm writes it: ``1-02:30:00``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02d}:{minute:02d}:{second:02d}"
