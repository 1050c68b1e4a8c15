"""The command ``spectr-batch run``: its parameters and their help."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from spectr_jobs.cli import config
from spectr_jobs.cli.options import RunOptions
from spectr_jobs.cli.types import ROWS, Column, Day, Duration, Rows, Shape
from spectr_jobs.work.stop import Stop
from spectr_runtime.backends import BACKENDS
from spectr_runtime.rows.drafting import SOURCES

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
EXIT_CODES = """
\b
Exit codes:
   0  every record was completed, or few enough failed (see --max-error-rate)
   1  a fatal error
   2  wrong usage or configuration
   3  finished, but too many records failed (see errors.jsonl)
  42  the input or the bundle is unusable; another try would end alike
  65  an input changed while it was decoded; put it back, then run the same command again
  75  interrupted; run the same command again to continue
"""


def _sampling_option(name: str, metavar: str, kind: type, neutral: str, words: str) -> Callable[[Decorated], Decorated]:
    """Return an option that sets a sampling parameter, which the model may set otherwise."""
    default = f"[default: the model's own, else {neutral}]"
    return click.option(name, metavar=metavar, type=kind, help=f"{words}  {default}")


@click.command(
    context_settings={"auto_envvar_prefix": "SPECTR"},
    epilog=f"""
\b
Example:
  spectr-batch run build/demo/bundle examples/prompts.jsonl -o build/demo/run

Every option can also be set by an environment variable, for instance SPECTR_BATCH_SIZE, or in a TOML file. The command
line overrides the variables, and the variables override the file.
{EXIT_CODES}""",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    metavar="RUN_DIR",
    required=True,
    help="Run directory to create or to continue; - writes rows to stdout and keeps nothing.",
)
@click.option(
    "--rule",
    metavar="NAME",
    help="Selection rule of a fixed plan.  [default: block for one path, kseq for several; race if looked up]",
)
@click.option(
    "--drafts",
    metavar="K",
    type=click.IntRange(min=1),
    help="Draft paths of a fixed plan.  [default: 1 for block, single and race, else 2]",
)
@click.option("--length", metavar="L", type=click.IntRange(min=1), help="Tokens per draft path.  [default: 8]")
@click.option(
    "--source",
    type=click.Choice(SOURCES),
    help="What a fixed plan drafts from. draft: the bundle's draft. lookup: the row's own text. corpus: rows that were "
    "finished before, and --corpus. texts: whichever of these two promises more. What is looked up goes with the rule "
    "`race`, lookup also with one path of `single` or `block`.  [default: draft]",
)
@click.option(
    "--corpus",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="File of texts to draft from, with --plan auto or a --source that looks there: JSON Lines (.jsonl) of texts "
    'or of objects with "text", or one plain text.',
)
@click.option(
    "--plan",
    type=click.Choice(["auto", "plain"]),
    help="auto: choose the source of drafts, and K and L of the rule `race`, anew in every round, for most tokens per "
    "second on this machine. plain: decode without drafts. Both write the text of every `--rule race` with the same "
    "seed; other rules keep its law, not the text. Excludes --rule, --drafts, --length and --source.  "
    "[default: auto, unless one of these is given]",
)
@click.option(
    "--batch-size",
    metavar="B",
    default=ROWS,
    type=Rows(),
    help="Rows decoded together. auto: as many as give most tokens per second, by the free memory, the input, and what "
    "rounds of few and of many rows take here, which is measured once for a bundle and machine.",
)
@click.option(
    "--call-shape",
    metavar="ROWSxTOKENS",
    type=Shape(),
    help="Give all calls one shape, whatever the batch holds, for instance 8x17: rounds feed the target TOKENS tokens "
    "for each of ROWS rows, texts are read row by row, and attention sees the bundle's whole capacity. So the logits "
    "of a row are the same to the last bit whatever is decoded beside it, wherever kernels compute the rows of a call "
    "independently. Takes time and memory. TOKENS must be K*L+1 or more, 17 for --plan auto, 1 for plain. Excludes "
    "--batch-size. A command that continues the run must repeat it.  [default: calls are as large as they need to be]",
)
@click.option(
    "--seed",
    metavar="S",
    default=0,
    type=click.IntRange(min=0, max=2**63 - 1),
    help="Run seed; the seed and a record's id determine the record's row.",
)
@click.option(
    "--backend",
    default="onnxruntime",
    type=click.Choice(BACKENDS),
    help="Library that runs the models.",
)
@click.option("--device", metavar="NAME", default="cpu", help="Device of the models: cpu, cuda, or a GPU like cuda:1.")
@click.option("--max-tokens", metavar="N", default=128, help="Token limit of records that set none.")
@_sampling_option("--temperature", "T", float, "1", "Temperature of records that set none; 0 takes the best token.")
@_sampling_option("--top-p", "P", float, "1", "Nucleus probability of records that set none.")
@_sampling_option("--top-k", "N", int, "0", "Top-k limit of records that set none; 0 keeps all tokens.")
@_sampling_option("--min-p", "P", float, "0", "Min-p share of records that set none.")
@_sampling_option("--repetition-penalty", "R", float, "1", "Repetition penalty of records that set none.")
@click.option(
    "--sampling-defaults",
    default="model",
    type=click.Choice(["model", "neutral"]),
    help="model: the sampling parameters that the target's generation_config.json gave stand in for those that neither "
    "a record nor an option sets. neutral: they do not.",
)
@click.option(
    "--date",
    metavar="YYYY-MM-DD",
    type=Day(),
    help="The day that chat templates with a date write into prompts.  [default: the day on which the run began]",
)
@click.option(
    "--column",
    metavar="FIELD=COLUMN",
    multiple=True,
    type=Column(),
    help="Column of a CSV or Parquet file that holds a field of another name. May be repeated.",
)
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Decode only the first N records.")
@click.option(
    "--shard-size",
    metavar="N",
    default=1000,
    type=click.IntRange(min=1),
    help="Records per shard. Ranks share a run by whole shards.",
)
@click.option(
    "--rank",
    metavar="R",
    type=click.IntRange(min=0),
    help="Decode the shards of rank R of --world. Under Slurm, Kubernetes or SkyPilot the rank is detected.",
)
@click.option(
    "--world", metavar="W", type=click.IntRange(min=1), help="Number of ranks; it may differ from start to start."
)
@click.option(
    "--drain-timeout",
    metavar="TIME",
    default="20s",
    type=Duration(),
    help="Time in which rows in flight may finish after a signal.",
)
@click.option(
    "--time-limit",
    metavar="TIME",
    type=Duration(),
    help="End within this time, for instance 3h50m, with exit code 75. Stops early enough to drain.",
)
@click.option("--compress", type=click.Choice(["zst"]), help="Compress finished shards and the merged files.")
@click.option(
    "--mirror",
    metavar="URL",
    help="Copy every finished shard, and the merged files, to an object store. A new RUN_DIR continues from the copy.",
)
@click.option("--retry-errors", is_flag=True, help="Decode failed records again if their failure may not recur.")
@click.option(
    "--max-error-rate",
    metavar="SHARE",
    default=0.0,
    type=click.FloatRange(0, 1),
    help="Largest share of failed records with which the exit code is still 0.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the records, count tokens, compute the memory, estimate the time from a sample, and exit. Writes "
    "nothing.",
)
@click.option("--print-config", is_flag=True, help="Print every option as TOML with the source of its value, and exit.")
@config.option
@click.pass_context
def run(ctx: click.Context, /, **values: Any) -> int:
    """Decode the records of INPUT... with BUNDLE into RUN_DIR.

    After an interruption, the same command continues the run.

    An INPUT is a file of JSON Lines, CSV or TSV (also compressed) or Parquet, a folder of such files, a pattern, a URL
    that fsspec opens, a pipe, or - for stdin. A record is an OpenAI batch request, or an object with "prompt",
    "messages" or "token_ids", an optional "id" and sampling fields; its other fields are copied to the output.
    """
    options = RunOptions(**values)
    config.tell_unknown_variables(ctx, os.environ)
    if options.print_config:
        click.echo(config.render(ctx))
        return 0
    rank, job, stop = options.find_rank(os.environ), options.job(), ctx.ensure_object(Stop)
    if options.dry_run:
        from spectr_jobs.commands.dry_run import dry_run

        return dry_run(job, rank)
    from spectr_jobs.commands.run import start
    from spectr_jobs.drivers.local import Local

    stop.arm(options.drain_timeout, options.time_limit)
    return start(job, Local(rank, shared=job.mirror is None), stop)
