"""The command ``spectr-batch``. What a command needs is imported when it runs, so that ``--help`` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

EXIT_CODES = """
\b
Exit codes:
   0  every record was completed
   1  fatal error
   2  wrong usage or configuration
   3  finished, some records failed (see errors.jsonl)
  42  the input or the bundle can never work
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="spectr")
def cli() -> None:
    """Decode files of prompts offline, with lossless multi-draft speculative decoding."""


@cli.command(
    epilog=f"""
\b
Example:
  spectr-batch run build/demo/bundle examples/prompts.jsonl -o build/demo/run

{EXIT_CODES}"""
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    "run_dir",
    metavar="RUN_DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Run directory to make.",
)
@click.option("--rule", help="Selection rule of speculative decoding.  [default: kseq]")
@click.option("--drafts", metavar="K", type=click.IntRange(min=1), help="Draft paths per round.  [default: 4]")
@click.option("--length", metavar="L", type=click.IntRange(min=1), help="Tokens of a draft path.  [default: 4]")
@click.option(
    "--plan", type=click.Choice(["plain"]), help="Decode without a draft; excludes --rule, --drafts and --length."
)
@click.option("--batch-size", metavar="B", default=8, type=click.IntRange(min=1), help="Rows decoded together.")
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(min=0, max=2**63 - 1),
    help="Run seed; with the record's id it fixes the row.",
)
@click.option(
    "--backend", default="onnxruntime", type=click.Choice(["onnxruntime", "torch"]), help="What runs the models."
)
@click.option("--device", default="cpu", help="Where they run, as torch names it: cpu, cuda, cuda:1.")
@click.option("--max-tokens", default=128, help="Most tokens to write, for records that do not say.")
@click.option("--temperature", default=1.0, help="Temperature, for records that do not say.")
@click.option("--top-p", default=1.0, help="Nucleus probability, for records that do not say.")
@click.option("--top-k", default=0, help="Most probable tokens kept, for records that do not say; 0 keeps all.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take only the first N records.")
def run(bundle: Path, inputs: tuple[str, ...], run_dir: Path, **options: Any) -> int:
    """Decode the records of INPUT... with BUNDLE into RUN_DIR.

    Inputs are JSON Lines: OpenAI batch requests, or plain objects with "prompt", "messages" or "token_ids", an optional
    "id" and sampling fields; what else they hold is carried into the output.
    """
    from spectr_jobs.run import execute, make_defaults, make_plan

    plan = make_plan(*(options.pop(name) for name in ("plan", "rule", "drafts", "length")))
    defaults = make_defaults(*(options.pop(name) for name in ("max_tokens", "temperature", "top_p", "top_k")))
    return execute(bundle, inputs, run_dir, plan=plan, defaults=defaults, shard_size=SHARD_SIZE, **options)


SHARD_SIZE = 10_000


def main() -> None:
    """Run the command and leave with its exit code."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run the command and return its exit code; errors that a user can cause become one message on stderr."""
    try:
        return int(cli.main(arguments, prog_name="spectr-batch", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return _complain("interrupted", 1)
    except OSError as error:
        return _complain(str(error), 1)
    except Exception as error:
        from spectr_runtime.errors import SpectrError

        if not isinstance(error, SpectrError):
            raise
        return _complain(str(error), error.exit_code)


def _complain(message: str, code: int) -> int:
    click.echo(f"spectr-batch: error: {message}", err=True)
    return code
