"""The command ``spectr-batch``. What a command needs is imported when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from spectr_jobs.cli.run import run
from spectr_jobs.cli.submit import submit
from spectr_jobs.console import runtime_log_shown, say
from spectr_jobs.errors import Interrupted
from spectr_jobs.work.stop import Ended, Stop


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="spectr")
def cli() -> None:
    """Decode files of prompts offline, with lossless multi-draft speculative decoding."""


@cli.command(
    epilog="""
\b
Exit codes:
   0  sound
   1  broken
  75  nothing is wrong, but some records are still to be decoded
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
def verify(run_dir: Path) -> int:
    """Check that every record has exactly one row in RUN_DIR.

    Looks for missing, repeated, foreign and altered rows, and for inputs that are not the ones that were decoded.
    """
    from spectr_jobs.commands.verify import show_verdict
    from spectr_jobs.run_directory.directory import RunDirectory

    return show_verdict(RunDirectory.open(run_dir))


@cli.command(
    epilog="""
\b
Example:
  spectr-batch replay build/demo/run --id bisect.insort_right

\b
Exit codes:
   0  the same row
   1  another row
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--id", "key", metavar="ID", required=True, help="Id of the record.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Where the bundle is now.  [default: where it was]")
def replay(run_dir: Path, key: str, bundle: Path | None) -> int:
    """Decode one record of RUN_DIR again, alone, write its row to stdout, and compare it with the row of the run."""
    from spectr_jobs.commands.replay import replay as decode_again
    from spectr_jobs.run_directory.directory import RunDirectory

    return decode_again(RunDirectory.open(run_dir), key, bundle, sys.stdout.buffer)


@cli.command(
    epilog="""
\b
Example:
  spectr-batch audit build/demo/run

\b
Exit codes:
   0  the rows follow the target's law, as far as the sample shows
   1  they do not; exact rows end so in at most 1 audit of 1,000
"""
)
@click.argument("run_dir", type=click.Path(path_type=Path))
@click.option("--tokens", metavar="N", default=20_000, type=click.IntRange(min=1), help="Tokens of the sample.")
@click.option("--seed", metavar="S", default=0, type=click.IntRange(min=0), help="Seed of the sample.")
@click.option("--bundle", type=click.Path(path_type=Path), help="Where the bundle is now.  [default: where it was]")
def audit(run_dir: Path, tokens: int, seed: int, bundle: Path | None) -> int:
    """Test whether the rows of RUN_DIR follow the target's law.

    A random sample of the rows is scored by the target alone, in one pass per row without drafts, and the places of its
    tokens in the target's laws are tested. Writes RUN_DIR/audit.json; the run may be incomplete.
    """
    from spectr_jobs.commands.audit import audit as test_rows
    from spectr_jobs.run_directory.directory import RunDirectory

    return test_rows(RunDirectory.open(run_dir), bundle, tokens=tokens, seed=seed)


@cli.command()
@click.argument("run_dir", type=click.Path(path_type=Path))
def report(run_dir: Path) -> None:
    """Write RUN_DIR/report.html, a page with pictures: speed, acceptance, time, lengths, failures.

    The run may be incomplete, and still be going on.
    """
    from spectr_jobs.report.page import write
    from spectr_jobs.run_directory.directory import RunDirectory

    say(f"wrote {write(RunDirectory.open(run_dir))}")


cli.add_command(run)
cli.add_command(submit)


def main() -> None:
    """Run the command and leave with its exit code."""
    stop = Stop()
    stop.install()
    sys.exit(call(sys.argv[1:], stop))


def call(arguments: Sequence[str], stop: Stop | None = None) -> int:
    """Run the command and return its exit code; errors that a user can cause become one message on stderr.

    Args:
        arguments: Those of the command line.
        stop: Listens to signals.
    """
    try:
        with runtime_log_shown():
            return int(cli.main(arguments, prog_name="spectr-batch", standalone_mode=False, obj=stop) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Ended as end:
        return _complain(str(end), Interrupted.exit_code)
    except BrokenPipeError:
        sys.stdout = None  # the interpreter must not flush it again
        return 1
    except OSError as error:
        room = ". Make room; the same command goes on." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        return _complain(f"{error}{room}", 1)
    except Exception as error:
        from spectr_runtime.errors import SpectrError

        if not isinstance(error, SpectrError):
            raise
        return _complain(str(error), error.exit_code)


def _complain(message: str, code: int) -> int:
    say(f"error: {message}")
    return code
