"""The command ``spectr-batch run``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from spectr_jobs.cli import config
from spectr_jobs.cli.options import Column, Duration, RunOptions
from spectr_jobs.work.stop import Stop
from spectr_runtime.backends import BACKENDS

EXIT_CODES = """
\b
Exit codes:
   0  every record was completed
   1  fatal error
   2  wrong usage or configuration
   3  finished, some records failed (see errors.jsonl)
  42  the input or the bundle can never work
  75  interrupted; run the same command again to go on
"""


@click.command(
    context_settings={"auto_envvar_prefix": "SPECTR"},
    epilog=f"""
\b
Example:
  spectr-batch run build/demo/bundle examples/prompts.jsonl -o build/demo/run

Every option can also be set by a variable like SPECTR_BATCH_SIZE, or in a TOML file; the command line comes first,
then the variables, then the file.
{EXIT_CODES}""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="RUN_DIR",
    required=True,
    help="Run directory to make or to go on with; - writes rows to stdout and keeps nothing.",
)
@click.option("--rule", metavar="NAME", help="Selection rule, in place of a plan.  [default: kseq]")
@click.option("--drafts", metavar="K", type=click.IntRange(min=1), help="Draft paths per round.  [default: 4]")
@click.option("--length", metavar="L", type=click.IntRange(min=1), help="Tokens of a draft path.  [default: 4]")
@click.option(
    "--plan",
    type=click.Choice(["auto", "plain"]),
    help="auto: in every round the race that promises most tokens per second here. plain: without a draft. Excludes "
    "--rule, --drafts and --length.  [default: auto, unless one of these is given]",
)
@click.option("--batch-size", metavar="B", default=8, type=click.IntRange(min=1), help="Rows decoded together.")
@click.option(
    "--seed",
    metavar="S",
    default=0,
    type=click.IntRange(min=0, max=2**63 - 1),
    help="Run seed; with the record's id it fixes the row.",
)
@click.option(
    "--backend",
    default="onnxruntime",
    type=click.Choice(BACKENDS),
    help="What runs the models.",
)
@click.option("--device", metavar="NAME", default="cpu", help="Where they run, as torch names it: cpu, cuda, cuda:1.")
@click.option("--max-tokens", metavar="N", default=128, help="Most tokens to write, for records that do not say.")
@click.option("--temperature", metavar="T", default=1.0, help="Temperature, for records that do not say.")
@click.option("--top-p", metavar="P", default=1.0, help="Nucleus probability, for records that do not say.")
@click.option(
    "--top-k", metavar="N", default=0, help="Most probable tokens kept, for records that do not say; 0 keeps all."
)
@click.option(
    "--column",
    metavar="FIELD=COLUMN",
    multiple=True,
    type=Column(),
    help="For tables: the column that holds a field, where their names differ. May be repeated.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Take only the first N records.")
@click.option(
    "--shard-size",
    metavar="N",
    default=1000,
    type=click.IntRange(min=1),
    help="Records per shard, the unit that ranks share out.",
)
@click.option(
    "--rank",
    metavar="R",
    type=click.IntRange(min=0),
    help="Decode the shards of rank R of --world; told by Slurm, Kubernetes and SkyPilot by themselves.",
)
@click.option("--world", metavar="W", type=click.IntRange(min=1), help="Number of ranks; it may change between runs.")
@click.option(
    "--drain-timeout",
    metavar="TIME",
    default="20s",
    type=Duration(),
    help="After a signal, time for the rows in flight.",
)
@click.option(
    "--time-limit",
    metavar="TIME",
    type=Duration(),
    help="Stop in time to be out after this long, for instance 3h50m; exit code 75.",
)
@click.option("--compress", type=click.Choice(["zst"]), help="Compress what is finished: sealed shards, merged files.")
@click.option(
    "--mirror",
    metavar="URL",
    help="Keep a copy in an object store: shards as they are done, all at the end. A new RUN_DIR goes on from it.",
)
@click.option("--retry-errors", is_flag=True, help="Decode records again whose failure may not come again.")
@click.option(
    "--max-error-rate",
    metavar="SHARE",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Share of failed records up to which the exit code is 0.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the records, count tokens, plan the memory, estimate the time from a pilot, and end; writes nothing.",
)
@click.option("--print-config", is_flag=True, help="Show every option as TOML and where its value comes from, and end.")
@config.option
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> int:
    """Decode the records of INPUT... with BUNDLE into RUN_DIR. The same command goes on after an interruption.

    An INPUT is a file of JSON Lines or CSV (.gz and .zst too) or Parquet, a folder of them, a pattern, a URL that
    fsspec opens, or - for stdin. Records are OpenAI batch requests, or plain objects with "prompt", "messages" or
    "token_ids", an optional "id" and sampling fields; what else they hold is carried into the output.
    """
    options = RunOptions(**values)
    if options.print_config:
        click.echo(config.render(ctx))
        return 0
    job, rank, stop = options.job(), options.find_rank(os.environ), ctx.ensure_object(Stop)
    if options.dry_run:
        from spectr_jobs.commands.dry_run import dry_run

        return dry_run(job, rank)
    from spectr_jobs.commands.run import start
    from spectr_jobs.drivers.local import Local

    stop.arm(options.drain_timeout, options.time_limit)
    return start(job, Local(rank), stop)
