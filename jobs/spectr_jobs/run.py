"""A run, from the command's values to its exit code."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from spectr_jobs import sources, summary
from spectr_jobs.progress import Progress
from spectr_jobs.run_directory import Manifest, RunDirectory
from spectr_jobs.session import Session
from spectr_jobs.survey import Survey, survey
from spectr_jobs.worker import Worker
from spectr_runtime import Bundle, Plan
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.request import Outcome, Request, SamplingParams
from spectr_runtime.timing import Timing

Backend = Literal["onnxruntime", "torch"]
ALL_DONE, SOME_FAILED = 0, 3


class RunDecoder(Protocol):
    """What a run needs of the decoder."""

    timing: Timing

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode; pulls requests lazily and yields rows as they finish, in any order."""
        ...


def open_decoder(
    bundle: Bundle, plan: Plan, *, batch_size: int, seed: int, backend: Backend, device: str
) -> RunDecoder:
    """Load the models of a bundle. Tests put another decoder in this place."""
    from spectr_runtime import Decoder  # loads torch

    return Decoder(bundle, plan=plan, batch_size=batch_size, seed=seed, backend=backend, device=device)


def make_plan(plan: str | None, rule: str | None, drafts: int | None, length: int | None) -> Plan:
    """The plan that the command's options name.

    Raises:
        UsageError: They exclude each other, or the rule does not go with K and L.
    """
    if plan is None:
        return Plan(rule or "kseq", 4 if drafts is None else drafts, 4 if length is None else length)
    given = [
        f"--{name}" for name, value in (("rule", rule), ("drafts", drafts), ("length", length)) if value is not None
    ]
    if given:
        raise UsageError(f"--plan {plan} and {', '.join(given)} exclude each other.", hint="Leave one of them out.")
    return Plan.plain()


def make_defaults(max_tokens: int, temperature: float, top_p: float, top_k: int) -> SamplingParams:
    """Sampling parameters of records that do not say.

    Raises:
        UsageError: A value is out of range.
    """
    try:
        return SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    except RequestError as error:
        option = (error.param or "").replace("_", "-")
        raise UsageError(f"--{option}: {error.message}") from error


def execute(
    bundle_path: Path,
    inputs: Sequence[str],
    run_path: Path,
    *,
    plan: Plan,
    defaults: SamplingParams,
    batch_size: int,
    seed: int,
    backend: Backend,
    device: str,
    limit: int | None,
    shard_size: int,
) -> int:
    """Decode the inputs into a new run directory.

    Returns:
        The exit code: 0 if every record was completed, 3 if some failed.

    Raises:
        SpectrError: The run cannot start or cannot go on; it owns the exit code.
    """
    files = sources.resolve(inputs)
    bundle = Bundle.open(bundle_path)
    found = survey(files, defaults, shard_size=shard_size, limit=limit)
    _report(found)
    run = RunDirectory.create(run_path, _manifest(bundle, found, defaults, seed, limit, shard_size))
    decoder = open_decoder(bundle, plan, batch_size=batch_size, seed=seed, backend=backend, device=device)
    facts = {"plan": str(plan), "batch_size": batch_size, "backend": backend, "device": device}
    _decode(run, decoder, facts)
    return _conclude(run)


def _report(found: Survey) -> None:
    for file in found.files:
        counts = ", ".join(f"{count:,} {SHAPES[shape]}" for shape, count in file.records.items())
        say(f"{file.path}: {counts}" if counts else f"warning: {file.path}: no record")
    for message in found.refusals:
        say(message)
    if found.bad:
        say(f"{found.bad:,} of {found.records:,} records cannot be decoded; they go to errors.jsonl")


SHAPES = {"openai": "OpenAI batch records", "simple": "simple records"}


def _manifest(
    bundle: Bundle, found: Survey, defaults: SamplingParams, seed: int, limit: int | None, shard_size: int
) -> Manifest:
    return Manifest(
        created=int(time.time()),
        bundle=str(bundle.path),
        bundle_sha256=bundle.sha256,
        seed=seed,
        sampling=defaults,
        files=found.files,
        limit=limit,
        records=found.records,
        bad=found.bad,
        shard_size=shard_size,
        shards=found.shards,
        versions=summary.versions(),
    )


def _decode(run: RunDirectory, decoder: RunDecoder, facts: dict[str, Any]) -> None:
    progress = Progress(sys.stderr, run.manifest.records)
    say(
        f"decoding {run.manifest.records:,} records: {facts['plan']}, batch {facts['batch_size']}, "
        f"{facts['backend']} on {facts['device']}"
    )
    session = Session(run.sessions, facts | summary.machine(), progress, decoder.timing)
    try:
        Worker(run, decoder, session).decode(range(len(run.manifest.shards)))
    except BaseException as error:
        session.close(type(error).__name__)
        raise
    session.close("done")


def _conclude(run: RunDirectory) -> int:
    run.merge()
    figures = summary.write(run)
    say("done\n" + summary.render(figures, run))
    return SOME_FAILED if figures["failed"] else ALL_DONE


def say(text: str) -> None:
    """Tell the user on stderr; stdout carries data only."""
    print(f"spectr-batch: {text}", file=sys.stderr, flush=True)
