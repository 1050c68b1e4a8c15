"""Cells of SpecTr's headline experiment: a plan that decodes, with what the model of its speed needs timed beside."""

# B rows, N nodes of a tree, W nodes of a level.
from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import click
import torch
from decoding import Clock

from papers.headline_model import Parts, predicted
from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call, Engine
from spectr_runtime.drafting.batch import Rows, tree_call
from spectr_runtime.drafting.model import root_call
from spectr_runtime.engines import open_engine
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.planning.costs import Costs, Spent
from spectr_runtime.planning.measuring import add_rounds
from spectr_runtime.reading.prefill import prefill
from spectr_runtime.speculation import pair
from spectr_runtime.speculation.round import score_call

PROMPT, TOKENS = 64, 48
PHASES = {"reading": "prefill", "drafting": "draft", "verification": "verify", "selection": "select"}
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One decoding of all requests with a plan.

    Attributes:
        seconds: Wall clock.
        phases: Its seconds by phase, those of ``PHASES`` and the rest.
        tokens: Tokens written.
        depths: For every row its rounds, and how many of them accepted at least 1, 2, ... drafts.
        predicted: The seconds that the model predicts, from what was timed between batches.
        full: What was timed with a full batch.
    """

    seconds: float
    phases: dict[str, float]
    tokens: int
    depths: tuple[tuple[int, tuple[int, ...]], ...]
    predicted: float
    full: Parts

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Rests(Costs):
    """Keeps of every round the seconds that were no call of an engine."""

    def __init__(self, clocks: Sequence[Clock]) -> None:
        super().__init__()
        self.kept: list[float] = []
        self._clocks = clocks
        self._before = self._called

    @property
    def _called(self) -> float:
        return sum(clock.seconds for clock in self._clocks)

    def observe(self, plan: Plan, rows: int, spent: Spent) -> None:
        """Keep a round."""
        self.kept.append(spent.total - (self._called - self._before))
        self._before = self._called


class Cell:
    """A plan with its decoder.

    Args:
        bundle: The models.
        plan: The plan.
        rows: Rows that are decoded together.
        engines: Engines that are open, by role; those that are missing are opened.
    """

    def __init__(self, bundle: Bundle, plan: Plan, rows: int, engines: dict[str, Clock]) -> None:
        def open_once(bundle: Bundle, role: Any, **sizes: Any) -> Engine:
            if role not in engines:
                engines[role] = Clock(open_engine(bundle, role, **sizes))
            return engines[role]

        self.plan, self._rows, self._engines = plan, rows, engines
        self._manifest = bundle.manifest
        with mock.patch.object(pair, "open_engine", open_once):
            self._decoder = Decoder(bundle, plan=plan, batch_size=rows, prefix_tokens=0)

    def decode(self, requests: Sequence[Request]) -> list[Completion]:
        """Decode requests, with nothing timed."""
        ended = [row for row in self._decoder.generate(requests) if isinstance(row, Completion)]
        if len(ended) != len(requests):
            raise click.ClickException(f"{len(requests) - len(ended)} of {len(requests)} rows failed")
        return ended

    def run(self, requests: Sequence[Request]) -> Run:
        """Decode requests a batch at a time, with what the model needs timed before and after each."""
        before, timed, ended = dataclasses.replace(self._decoder.timing), [self._timed()], list[Completion]()
        seconds = guessed = 0.0
        for first in range(0, len(requests), self._rows):
            started = time.perf_counter()
            batch = self.decode(requests[first : first + self._rows])
            seconds += time.perf_counter() - started
            timed.append(self._timed())
            parts = {rows: mean([found[rows] for found in timed[-2:]]) for rows in timed[0]}
            guessed += predicted(self.plan, parts, [row.speculation.rounds for row in batch])
            ended += batch
        phases = {name: getattr(self._decoder.timing, phase) - getattr(before, phase) for name, phase in PHASES.items()}
        return Run(
            seconds=seconds,
            phases=phases | {"rest": seconds - sum(phases.values())},
            tokens=sum(row.usage.completion_tokens for row in ended),
            depths=tuple((row.speculation.rounds, row.speculation.accepted_at_depth) for row in ended),
            predicted=guessed,
            full=mean([found[self._rows] for found in timed]),
        )

    def _timed(self) -> dict[int, Parts]:
        """Time what a round is made of, by the number of rows."""
        return {rows: self._parts(rows) for rows in sorted({1, (self._rows + 1) // 2, self._rows})}

    @torch.inference_mode()
    def _parts(self, rows: int) -> Parts:
        """Time calls and rounds behind texts of middle length, each at its second time; caches are overwritten."""
        tree, vocabulary = self.plan.tree, self._manifest.vocabulary.size
        state, models = state_of(rows, PROMPT + TOKENS // 2, vocabulary), self._decoder._loop.pair
        draft, target = models.draft if self.plan.drafts else None, models.target
        tokens_BN = torch.zeros((rows, tree.size), dtype=torch.int64)
        rests = Rests([*self._engines.values()])
        add_rounds(rests, models, [self.plan] * 2, vocabulary, rows, state.longest)
        root = level = 0.0
        if draft is not None:
            root, paths = timed(draft, root_call(draft, state)), tree.levels[1]
            sees_WN = tree.ancestors(CPU)[paths.start : paths.stop, : paths.stop]
            tokens_BW = tokens_BN[:, paths.start : paths.stop]
            level = timed(draft, tree_call(draft, state, tokens_BW, (1,) * len(paths), paths.start, sees_WN))
        return Parts(
            root=root,
            level=level,
            target=timed(target, score_call(tree, target, state, tokens_BN, tree.size)),
            rest=rests.kept[-1],
            reading=self._reading([target] if draft is None else [target, draft]) if rows == self._rows else 0.0,
        )

    def _reading(self, models: Sequence[Engine]) -> float:
        """Return the seconds of reading a prompt into every row."""
        rows, chunk, started = self._rows, self._manifest.limits.tokens_per_call, time.perf_counter()
        for engine in models:
            prefill(engine, [[0] * PROMPT] * rows, [0] * rows, 0, chunk, CPU)
        return time.perf_counter() - started


def state_of(rows: int, length: int, vocabulary: int) -> Rows:
    """Return the state of rows whose texts have some length."""
    none_B = torch.zeros(rows, dtype=torch.int64)
    sampling = Sampling.of([SamplingParams()] * rows, vocabulary, CPU)
    return Rows(none_B + length, torch.zeros((rows, 2), dtype=torch.int64), none_B, sampling, None, None, length)


def timed(engine: Engine, call: Call) -> float:
    """Return the seconds of a call that was run once before."""
    engine.run(call)
    started = time.perf_counter()
    engine.run(call)
    return time.perf_counter() - started


def mean(parts: Sequence[Parts]) -> Parts:
    """Return the means of what was timed at different moments."""
    return Parts(*(statistics.fmean(column) for column in zip(*map(dataclasses.astuple, parts), strict=True)))
