"""The command ``spectr-batch``: its short subcommands, and errors as messages and exit codes."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from spectr_jobs.cli.run import Decorated, run
from spectr_jobs.cli.submit import submit
from spectr_jobs.console import keep_streams, runtime_log_shown, say
from spectr_jobs.errors import Interrupted
from spectr_jobs.urls import masked
from spectr_jobs.work.stop import CONTINUE, Ended, Stop
from spectr_runtime.errors import SpectrError

# What helps against a failure of a file system; then the same command goes on.
REMEDIES = {
    errno.ENOSPC: "Make room.",
    errno.EDQUOT: "Make room.",
    errno.EFBIG: "Allow larger files.",
    errno.EROFS: "Make it writable.",
    errno.EACCES: "Give this user access to it.",
    errno.EPERM: "Give this user access to it.",
    errno.ENOENT: "Put it back.",
    errno.ESTALE: "Mount it again.",
    errno.EIO: "Look at the disk or its mount.",
    errno.EINVAL: "Take a folder on a file system that supports it.",
}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="spectr")
def cli() -> None:
    """Decode files of prompts offline, with lossless multi-draft speculative decoding."""


_bundle_option = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Where the bundle is now, if it was moved.  [default: the path that RUN_DIR remembers]",
)


def _output_option(name: str) -> Callable[[Decorated], Decorated]:
    """Return the option of another place for a file that a command writes into the run directory."""
    return click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"File to write; - is stdout. For a RUN_DIR that cannot be written.  [default: RUN_DIR/{name}]",
    )


@cli.command(
    epilog="""
\b
Exit codes:
   0  every record has its row, and nothing is wrong
   1  something is wrong; the messages say what
  75  nothing is wrong, but some records are still to be decoded, or finished shards to be merged
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
def verify(run_dir: Path) -> int:
    """Check that RUN_DIR has exactly one row for every record.

    The check finds missing, repeated, foreign and altered rows, and inputs or a bundle that changed since the run. It
    reads files only and loads no model.
    """
    from spectr_jobs.commands.verify import show_verdict
    from spectr_jobs.run_directory.directory import RunDirectory

    return show_verdict(RunDirectory.open(run_dir))


@cli.command(
    epilog="""
\b
Example:
  spectr-batch replay build/demo/run --id bisect.insort_right
  spectr-batch replay build/demo/run --id bisect.insort_right --rounds

\b
Exit codes:
   0  the record gave the same row again
   1  the record gave another row
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--id", "key", metavar="ID", required=True, help="Id of the record.")
@click.option(
    "--rounds",
    is_flag=True,
    help="Write the rounds of the record instead of its row: what each drafted and kept, and what the target put in.",
)
@_bundle_option
def replay(run_dir: Path, key: str, rounds: bool, bundle: Path | None) -> int:
    """Decode one record of RUN_DIR again and compare the rows.

    The record is decoded alone, so that no other record can influence it. Its new row goes to stdout; the first
    difference from the row in RUN_DIR, if there is any, goes to stderr.
    """
    from spectr_jobs.commands.replay import replay as decode_again
    from spectr_jobs.run_directory.directory import RunDirectory

    return decode_again(RunDirectory.open(run_dir), key, bundle, rounds=rounds)


@cli.command(
    epilog="""
\b
Example:
  spectr-batch audit build/demo/run

\b
Exit codes:
   0  nothing in the sample speaks against the rows
   1  the rows do not follow the target's law; a false alarm has a chance of at most 1 in 1,000
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--tokens", metavar="N", default=20_000, type=click.IntRange(min=1), help="Size of the sample in tokens.")
@click.option("--seed", metavar="S", default=0, type=click.IntRange(min=0), help="Seed that draws the sample.")
@_bundle_option
@_output_option("audit.json")
def audit(run_dir: Path, tokens: int, seed: int, bundle: Path | None, output: Path | None) -> int:
    """Test whether the rows of RUN_DIR follow the target's law.

    The models score a random sample of the rows, in passes over plain text, without speculation. A statistical test
    then tells whether the sampled tokens can have been drawn from the target's probabilities. The figures are written
    to RUN_DIR/audit.json; if they cannot be, the verdict stands. The run may be incomplete.
    """
    from spectr_jobs.commands.audit import audit as test_rows
    from spectr_jobs.run_directory.directory import RunDirectory

    return test_rows(RunDirectory.open(run_dir), bundle, tokens=tokens, seed=seed, output=output)


@cli.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
@_output_option("report.html")
def report(run_dir: Path, output: Path | None) -> None:
    """Write RUN_DIR/report.html, a page of charts and tables.

    The page shows speed and plans over time, acceptance by depth, time by stage, lengths, some rows with their drafts,
    and failures. It needs no network. The run may be incomplete, or still be going on.
    """
    from spectr_jobs.report import outlet
    from spectr_jobs.report.page import page
    from spectr_jobs.run_directory.directory import RunDirectory
    from spectr_jobs.run_directory.layout import REPORT

    path = output or run_dir / REPORT
    outlet.write(page(RunDirectory.open(run_dir)), path)
    if path != outlet.STDOUT:
        say(f"wrote {path}")


cli.add_command(run)
cli.add_command(submit)


def main() -> None:
    """Run the command and leave with its exit code."""
    keep_streams()
    stop = Stop()
    stop.install()
    sys.exit(call(sys.argv[1:], stop))


def call(arguments: Sequence[str], stop: Stop | None = None) -> int:
    """Run the command and return its exit code. An error that a user can cause becomes one message on stderr.

    Args:
        arguments: The arguments of the command line.
        stop: Listens to signals; None for a command that no signal is to stop gently.
    """
    try:
        with runtime_log_shown():
            return int(cli.main(arguments, prog_name="spectr-batch", standalone_mode=False, obj=stop) or 0)
    except click.ClickException as error:
        error.message = masked(error.message)  # type: ignore[misc]
        error.show()
        return error.exit_code
    except Ended as end:
        return _complain(str(end), Interrupted.exit_code)
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0)
        return _complain(f"{error}. {remedy} {CONTINUE}" if remedy else str(error), 1)
    except SpectrError as error:
        return _complain(str(error), error.exit_code)


def _complain(message: str, code: int) -> int:
    say(f"error: {message}")
    return code
