"""The commands ``spectr-batch submit slurm``, ``kubernetes`` and ``ray``."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from spectr_jobs.cli.config import ACTIONS
from spectr_jobs.cli.options import RunOptions
from spectr_jobs.cli.run import run
from spectr_jobs.cli.types import Duration
from spectr_jobs.console import say
from spectr_jobs.inputs.stdin import is_stream
from spectr_jobs.inputs.stores import is_remote
from spectr_jobs.queues import kubernetes as kubernetes_job
from spectr_jobs.queues import slurm as slurm_array
from spectr_jobs.queues.submission import Submission
from spectr_jobs.urls import masked
from spectr_jobs.work.stop import Stop

PROGRAM = "spectr-batch"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@click.group()
def submit() -> None:
    """Decode a run on many machines, with Slurm, Kubernetes or Ray.

    For Slurm and Kubernetes, the command writes a job to be submitted; for Ray, it runs the job. The arguments of
    `spectr-batch run` come after `--`, and are parsed as that command parses them.
    """


def _options(*options: Callable[[Decorated], Decorated]) -> Callable[[Decorated], Decorated]:
    """Return a decorator that adds parameters in the order in which ``--help`` is to show them."""

    def decorate(command: Decorated) -> Decorated:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_shared = _options(
    click.argument("arguments", metavar="-- BUNDLE INPUT... -o RUN_DIR [RUN OPTIONS]", nargs=-1, required=True),
    click.option(
        "--ranks",
        metavar="N",
        required=True,
        type=click.IntRange(min=1),
        help="Number of processes that share the run's shards.",
    ),
    click.option("--gpus", metavar="N", default=1, type=click.IntRange(min=0), help="GPUs per rank."),
    click.option("--cpus", metavar="N", default=8, type=click.IntRange(min=1), help="CPU cores per rank."),
)
_job = _options(
    click.option("--memory", metavar="SIZE", help="Memory per rank, in the notation of the queue."),
    click.option("--name", default="spectr", help="Name of the job."),
)


@submit.command(
    epilog="""
\b
Example:
  spectr-batch submit slurm --ranks 8 --time 4h --to job.sbatch -- bundle prompts.jsonl -o run --device cuda
"""
)
@_shared
@_job
@click.option(
    "--time",
    "time_limit",
    metavar="TIME",
    required=True,
    type=Duration(),
    help="Time limit of a task. A task that is not done by then is queued again.",
)
@click.option("--partition", metavar="NAME", help="Slurm partition of the job.")
@click.option(
    "--setup",
    metavar="COMMAND",
    multiple=True,
    help="Shell command to run first, for instance to activate an environment. May be repeated.",
)
@click.option("--to", type=click.Path(path_type=Path), default="spectr.sbatch", help="Path of the script to write.")
def slurm(
    arguments: tuple[str, ...],
    to: Path,
    time_limit: float,
    partition: str | None,
    setup: tuple[str, ...],
    **resources: Any,
) -> None:
    """Write a Slurm array with one task per rank.

    Slurm warns a task before its time limit. The task then stops cleanly, and is queued again until its shards are
    done.
    """
    # A setup command may put another environment's spectr-batch on the PATH. Without one, the job runs the very command
    # that wrote it, which needs no PATH.
    job = _submission(PROGRAM if setup else _this_program(), arguments, resources)
    script = slurm_array.script(job, folder=Path.cwd(), time_limit=time_limit, partition=partition, setup=setup)
    _write(to, script, f"sbatch {to}")
    _tell_secrets(arguments, f"{to} holds what gives access to a URL; only you can read it")


@submit.command(
    epilog="""
\b
Example:
  spectr-batch submit kubernetes --ranks 8 --image registry/spectr:0.1 --claim work -- bundle prompts.jsonl -o run
"""
)
@_shared
@_job
@click.option("--image", required=True, help="Container image with spectr in it.")
@click.option(
    "--claim",
    required=True,
    help="Persistent volume claim for bundle, inputs and run directory. All ranks share it: it must be ReadWriteMany.",
)
@click.option(
    "--mount", default="/work", help="Path of the volume in the container; the run's paths are relative to it."
)
@click.option("--to", type=click.Path(path_type=Path), default="spectr-job.yaml", help="Path of the file to write.")
def kubernetes(arguments: tuple[str, ...], to: Path, image: str, claim: str, mount: str, **resources: Any) -> None:
    """Write a Kubernetes Indexed Job with one index per rank.

    A pod that is evicted or interrupted is replaced, and the new pod continues its work. An index whose input or usage
    is wrong is not tried again.
    """
    job = _submission(PROGRAM, arguments, resources)
    _write(to, kubernetes_job.manifest(job, image=image, claim=claim, mount=mount), f"kubectl apply -f {to}")
    _tell_secrets(
        arguments,
        f"{to} holds what gives access to a URL; only you can read it, but all who may see the cluster's jobs can too",
    )


@submit.command(
    epilog="""
\b
Examples:
  spectr-batch submit ray --ranks 2 --cpus 4 -- bundle prompts.jsonl -o run
  spectr-batch submit ray --ranks 8 --address auto -- bundle prompts.jsonl -o run --device cuda
"""
)
@_shared
@click.option(
    "--address",
    metavar="ADDRESS",
    default="local",
    envvar="RAY_ADDRESS",
    show_envvar=True,
    help="Ray cluster: HOST:PORT, auto for the cluster of this machine, or local for a new cluster on this machine.",
)
@click.pass_context
def ray(ctx: click.Context, /, arguments: tuple[str, ...], address: str, ranks: int, cpus: int, gpus: int) -> int:
    """Decode with one Ray actor per rank, and wait for the end.

    A lost actor is replaced, and its shards are decoded by others. GPUs are reserved with --device cuda only. All
    machines must see the bundle, the inputs and the run directory under the same paths. Signals and exit codes are
    those of `spectr-batch run`, which can also continue a run that was begun here.
    """
    options = _checked(arguments)
    from spectr_jobs.commands.run import start
    from spectr_jobs.drivers.ray import Cluster

    job, stop = options.job(), ctx.ensure_object(Stop)
    stop.arm(options.drain_timeout, options.time_limit)
    return start(job, Cluster(address, ranks, cpus, gpus), stop)


def _submission(program: str, arguments: Sequence[str], resources: Mapping[str, Any]) -> Submission:
    options = _checked(arguments)
    _tell_missing(options)
    return Submission((program, "run", *arguments), options.drain_timeout, **resources)


def _this_program() -> str:
    """Return the path of the running ``spectr-batch``, or its bare name if it was started in another way."""
    called = Path(sys.argv[0])
    return str(called.absolute()) if called.name == PROGRAM and called.is_file() else PROGRAM


def _checked(arguments: Sequence[str]) -> RunOptions:
    """Parse the arguments of ``spectr-batch run`` for a job.

    Raises:
        click.UsageError: ``spectr-batch run`` refuses the arguments, or a job cannot do what they ask for.
        UsageError: A value is out of range, or two exclude each other. The rule itself is checked when the job runs.
    """
    options = RunOptions(**run.make_context("run", list(arguments)).params)
    if options.output == "-" or any(map(is_stream, options.inputs)):
        raise click.UsageError("A job has no stdin, pipe or stdout to read or write; name files.")
    for name in ("rank", "world"):
        if getattr(options, name) is not None:
            raise click.UsageError(f"--{name} is set by the queue; leave it out.")
    for name in ACTIONS:
        if getattr(options, name):
            raise click.UsageError(f"--{name.replace('_', '-')} decodes nothing; give it to `spectr-batch run`.")
    options.sampling()
    options.refuse_short_time()
    options.refuse_two_plans()
    options.refuse_idle_corpus()
    options.refuse_call_shape()
    return options


def _tell_missing(options: RunOptions) -> None:
    """Tell the user of bundle, corpus and inputs that do not exist here; they may on the machines of the queue."""
    names = (str(options.bundle), *options.inputs, *([] if options.corpus is None else [str(options.corpus)]))
    for name in names:
        if not is_remote(name) and not Path(name).exists() and not glob.glob(name, recursive=True):
            say(f"warning: there is no {name} here; the machines of the queue must have it under this path")


def _tell_secrets(arguments: Sequence[str], warning: str) -> None:
    if any(masked(argument) != argument for argument in arguments):
        say(f"warning: {warning}")


def _write(to: Path, text: str, start: str) -> None:
    """Write a file, for its owner alone if there is anything secret in it."""
    if not to.parent.is_dir():
        raise click.UsageError(f"--to {to}: there is no folder {to.parent}.")
    if to.exists() and to.read_text(encoding="utf-8") != text:
        raise click.UsageError(f"{to} exists with other content. Remove it, or name another file with --to.")
    with to.open("a+b") as file:
        if masked(text) != text:
            os.fchmod(file.fileno(), 0o600)
        file.truncate(0)
        file.write(text.encode())
    say(f"wrote {to}; start it with: {start}")
