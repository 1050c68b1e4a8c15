"""The audit: the target scores a random sample of a run's rows, and a test compares them with its law.

``evidence`` explains what is computed from the scores, and why that is a test.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_jobs.clock import show_date
from spectr_jobs.commands.evidence import FALSE_ALARMS, Evidence
from spectr_jobs.commands.replay import setups
from spectr_jobs.console import say, table
from spectr_jobs.records import rows
from spectr_jobs.records.record import Record
from spectr_jobs.report import outlet, summary
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.run_directory.layout import AUDIT, OUTPUT
from spectr_jobs.run_directory.provenance import changed_sources, open_bundle
from spectr_jobs.work import models
from spectr_runtime.errors import RequestError, SpectrError, UsageError
from spectr_runtime.rows.score import Written

PASSED, FAILED = 0, 1


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """A row that was drawn into the sample.

    Attributes:
        key: Id of the row.
        shard: Number of the row's shard.
        completions: Token ids of each of the row's completions.
    """

    key: str
    shard: int
    completions: Sequence[Sequence[int]]

    @property
    def size(self) -> int:
        """Number of tokens of all completions."""
        return sum(map(len, self.completions))


def audit(run: RunDirectory, bundle_path: Path | None, *, tokens: int, seed: int, output: Path | None = None) -> int:
    """Test a sample of the rows, show the result, and keep the figures if that is possible.

    Args:
        run: The run directory; it may be incomplete.
        bundle_path: Path of the bundle if it was moved; None for the path that the run directory remembers.
        tokens: Size of the sample in tokens; a smaller run is tested whole.
        seed: Seed of the sample and of the uniform numbers that the test needs.
        output: File of the figures, ``-`` for stdout; None for the run's ``audit.json`` and summary.

    Returns:
        The exit code: 0 if the rows follow the target's law as far as the sample shows.

    Raises:
        UsageError: The inputs have changed, or no row contains its token ids.
        BundleError: The bundle is not the bundle of the run.
    """
    if changed := [*changed_sources(run)]:
        raise UsageError(f"The rows cannot be scored: {changed[0]}.", hint="Restore it first.")
    bundle = open_bundle(run, bundle_path)
    sample, total = draw(run, tokens, seed)
    if not sample:
        raise UsageError(
            f"No row of {run.path} holds its token ids.",
            hint="Decode records without `return_token_ids: false` first.",
        )
    setup = setups(run)[0]
    scored = min(tokens, sum(drawn.size for drawn in sample))
    say(f"scoring {scored:,} tokens of {len(sample):,} rows, {setup.backend} on {setup.device}")
    scorer = models.open_scorer(bundle, setup, date=run.manifest.date)
    evidence = Evidence(seed, drafted=bundle.manifest.has_draft)
    try:
        for score in scorer.score(_written(run, sample, tokens)):
            evidence.add(score)
    except RequestError as error:
        raise SpectrError(str(error), hint="The rows are not those of this bundle and these inputs.") from error
    figures = _figures(evidence, len(sample), total, scorer.tolerance)
    verdict = "passes" if evidence.sound else "fails"
    say(f"{run.path} {verdict}\n" + render(evidence, figures))
    _keep(run, figures, output)
    return PASSED if evidence.sound else FAILED


def _keep(run: RunDirectory, figures: Mapping[str, Any], output: Path | None) -> None:
    """Write the figures; if that fails, the verdict is still worth its exit code."""
    try:
        outlet.write(json.dumps(figures, indent=2) + "\n", output or run.path / AUDIT)
        if output is None and run.summary.exists():
            summary.write(run)
    except (SpectrError, OSError) as error:
        say(f"warning: the verdict is not kept: {error}")


def draw(run: RunDirectory, tokens: int, seed: int) -> tuple[list[Drawn], int]:
    """Draw rows in random order until they hold enough tokens.

    The random order is the order of the hashes of seed and id, so it does not depend on the order of the files. Only
    the rows that may still belong to the sample are kept in memory.

    Returns:
        The sample in its random order, and the number of rows from which it was drawn.
    """
    chosen: list[tuple[int, Drawn]] = []
    held = total = 0
    for drawn in _drawable(run):
        total += 1
        heapq.heappush(chosen, (-_hash(seed, drawn.key), drawn))
        held += drawn.size
        while held - chosen[0][1].size >= tokens:  # enough without the last row in the random order
            held -= heapq.heappop(chosen)[1].size
    return [drawn for _, drawn in sorted(chosen, key=lambda pair: -pair[0])], total


def _drawable(run: RunDirectory) -> Iterator[Drawn]:
    for number in run.shards:
        for row in journal.rows(run.shard(number) / OUTPUT):
            if completions := rows.token_ids(row):
                yield Drawn(rows.key(row), number, completions)


def _hash(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=16).digest(), "little")


def _written(run: RunDirectory, sample: Sequence[Drawn], tokens: int) -> Iterator[Written]:
    """Yield the completions of the sample in its order, and end after a number of tokens."""
    records = _records(run, sample)
    for drawn in sample:
        requests = [*records[drawn.key].requests]
        if len(requests) != len(drawn.completions):
            raise UsageError(
                f"The row of {drawn.key!r} has {len(drawn.completions)} completions, its record asks for "
                f"{len(requests)}.",
                hint="Look with `spectr-batch verify`.",
            )
        for request, token_ids in zip(requests, drawn.completions, strict=True):
            kept = tuple(itertools.islice(token_ids, tokens))
            tokens -= len(kept)
            if kept:
                yield Written(request, kept)


def _records(run: RunDirectory, sample: Sequence[Drawn]) -> dict[str, Record]:
    """Return the records of the sample by their ids."""
    wanted, reader = {drawn.key for drawn in sample}, ShardReader(run.manifest)
    found = (record for number in sorted({drawn.shard for drawn in sample}) for record in reader.read(number))
    records = {
        record.origin.key: record for record in found if isinstance(record, Record) and record.origin.key in wanted
    }
    if missing := wanted - records.keys():
        raise UsageError(f"No record has the id {min(missing)!r} of a row.", hint="Look with `spectr-batch verify`.")
    return records


def _figures(evidence: Evidence, drawn: int, total: int, tolerance: float) -> dict[str, Any]:
    return {
        "passed": evidence.sound,
        "p_value": evidence.p_value,
        "false_alarm_rate": FALSE_ALARMS,
        "test": "randomised probability integral transform, Kolmogorov's statistic, Dvoretzky-Kiefer-Wolfowitz bound",
        "seed": evidence.seed,
        "rows": drawn,
        "rows_with_token_ids": total,
        "tokens": len(evidence.by_probability),
        "statistics": {name: statistic.to_json() for name, statistic in evidence.statistics.items()},
        "greedy_tokens": evidence.greedy,
        "impossible_tokens": evidence.impossible,
        "logit_tolerance": tolerance,
        "date": show_date(time.time()),
    }


def render(evidence: Evidence, figures: Mapping[str, Any]) -> str:
    """Return the figures as a table for the terminal."""
    sample = f"{figures['rows']:,} of {figures['rows_with_token_ids']:,} rows, drawn with seed {evidence.seed}"
    lines = [("sample", sample), ("drawn tokens", f"{figures['tokens']:,}")]
    for name, statistic in evidence.statistics.items():
        allowed, p_value = statistic.resolution(evidence.threshold), statistic.p_value
        failed = "  FAILS" if p_value < evidence.threshold else ""
        lines.append((name, f"distance {statistic.distance:.4f}, allowed {allowed:.4f}, p = {p_value:.2g}{failed}"))
    if evidence.greedy:
        lines.append(("temperature 0", f"{evidence.greedy:,} tokens"))
    shown = f"{evidence.impossible:,}  FAILS: {', '.join(evidence.examples)}" if evidence.impossible else "none"
    lines.append(("impossible tokens", f"{shown} (logits within {figures['logit_tolerance']:g} count as equal)"))
    lines.append(("false alarms", f"at most 1 audit in {1 / FALSE_ALARMS:,.0f}"))
    return table(lines)
