"""A decoder without models for the tests of jobs (its text is a hash of seed, id and prompt), a bundle for it, lines.

Run as a script it is ``spectr-batch`` with that decoder in the place of the real one, for tests that kill it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from spectr_runtime import (
    Bundle,
    Completion,
    EngineError,
    Failure,
    Manifest,
    ModelSpec,
    Outcome,
    Plan,
    Reading,
    Request,
    RequestError,
    RowError,
    SamplingParams,
    SpeculationStats,
    Timing,
    TokenLogprob,
    Usage,
)
from spectr_runtime.bundle import ROLES, Limits, Role, Vocabulary
from spectr_runtime.overlap import Overlap
from spectr_runtime.rows.drafting import SourceStats
from spectr_runtime.rows.rounds import RowRound
from spectr_runtime.rows.score import Score, TokenScore, Written
from spectr_runtime.speculation.plan import PlanChoice
from spectr_runtime.speculation.timing import PlainTime

CHOSEN = 8  # rows of a process that chooses its batch size


def _digest(seed: int, request: Request) -> str:
    params = request.params
    own = seed if params.seed is None else params.seed
    return hashlib.sha256(f"{own}|{request.id}|{request.choice}|{request.prompt}|{params}".encode()).hexdigest()


class StubDecoder:
    """Finishes rows out of order, and looks ahead by its batch size.

    Ids that begin with ``long`` fail for their length, ids that begin with ``flaky`` fail while ``flaky`` is on; of the
    completions of an id that begins with ``half`` the odd ones fail. A watched round writes three tokens, two of them
    drafts.
    """

    def __init__(
        self,
        *,
        batch_size: int = 4,
        seed: int = 0,
        date: datetime.date | None = None,
        pause: float = 0.0,
        flaky: bool = True,
        plans: Sequence[Plan] = (Plan("kseq", 4, 4),),
        copied: int = 0,
        plain: PlainTime | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.timing = Timing()
        self.reading = Reading()
        self.plain = plain or PlainTime()
        self.rounds: Counter[Plan] = Counter()
        self.pulled = 0
        self.finished = 0
        self.most_waiting = 0
        self.date = date
        self.plan: PlanChoice | None = None
        self.call_shape: str | None = None
        self.params: dict[str, SamplingParams] = {}
        self._seed = seed
        self._pause = pause
        self._flaky = flaky
        self._plans = plans
        self._copied = copied
        self._around: Callable[[], AbstractContextManager[None]] = nullcontext

    def run(self, requests: Iterable[Request], take: Callable[[Outcome], None], stopped: Callable[[], bool]) -> None:
        overlap = Overlap(requests, take, self.batch_size, stopped)
        self._around = overlap.at_work
        overlap.run(self.generate)

    def piece(self, token: int) -> tuple[str, bytes]:
        """Tokens are bytes; those from 128 on are parts of characters."""
        return chr(token) if token < 128 else "\ufffd", bytes([token])

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        source = iter(requests)
        batch: list[Request] = []
        while True:
            while len(batch) < self.batch_size and (request := next(source, None)) is not None:
                batch.append(request)
                self.params[request.id] = request.params
                self.pulled += 1
            if not batch:
                return
            self.most_waiting = max(self.most_waiting, len(batch))
            try:
                with self._around():
                    time.sleep(self._pause)
            except Exception as error:  # like an engine around a call
                raise EngineError(f"A call failed: {error!r}") from error
            self.timing.verify += self._pause
            self.reading.read += 3
            self.reading.copied += self._copied
            request = batch.pop(int(_digest(self._seed, batch[0])[:8], 16) % len(batch))
            self.rounds[self._plans[self.finished % len(self._plans)]] += 2
            self.finished += 1
            yield self._outcome(request)

    def _outcome(self, request: Request) -> Outcome:
        if request.id.startswith("long") or (request.id.startswith("half") and request.choice % 2):
            error = RequestError("The prompt is too long.", code="context_length_exceeded")
            return Failure(request.id, error, request.choice)
        if request.id.startswith("flaky") and self._flaky:
            return Failure(request.id, RowError("Logits are not finite.", code="non_finite_logits"), request.choice)
        digest = _digest(self._seed, request)
        tokens = tuple(bytes.fromhex(digest))[: min(request.params.max_tokens, 1 + int(digest[:2], 16) % 8)]
        if request.watch is not None:
            for one in _rounds(request, tokens, self._plans[0]):
                request.watch(one)
        return Completion(
            id=request.id,
            text=f"{digest[:12]} é\u2028\n",
            token_ids=tokens,
            finish_reason="length" if len(tokens) == request.params.max_tokens else "stop",
            usage=Usage(prompt_tokens=len(str(request.prompt)), completion_tokens=len(tokens)),
            speculation=SpeculationStats(2, (2, 1), {"draft": SourceStats(rounds=2, proposed=8, accepted=3)}),
            choice=request.choice,
            logprobs=None if request.params.logprobs is None else _scored(tokens, request.params.logprobs),
        )


def _rounds(request: Request, tokens: Sequence[int], plan: Plan) -> Iterator[RowRound]:
    for number, position in enumerate(range(0, len(tokens), 3), 1):
        *accepted, token = tokens[position : position + 3]
        paths = ((*accepted, 65), (*accepted[:1], 10, 66)) if accepted else ((65,),)
        source, kept = ("draft", "lookup")[number % 2], tuple(accepted)
        yield RowRound(request.id, request.choice, number, position, str(plan), source, paths, kept, token, 0)  # type: ignore[arg-type]


def _scored(tokens: Sequence[int], top: int) -> tuple[TokenLogprob, ...]:
    """Made-up log-probabilities; every token is a lone byte."""
    places = [TokenLogprob(rank, f"{rank}", b"%d" % rank, -1.0 - rank) for rank in range(top)]
    return tuple(TokenLogprob(token, chr(token), bytes([token]), -token / 7, tuple(places)) for token in tokens)


class StubScorer:
    """Scores every token as drawn from its law; a biased one puts all of them into the lower half.

    Without a draft there is no order of draft to target.
    """

    tolerance = 0.001

    def __init__(self, *, biased: bool = False, drafted: bool = True) -> None:
        self._share = 0.5 if biased else 1.0
        self._ratio = 0.0 if drafted else None
        self.scored: list[Written] = []

    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        for written in completions:
            self.scored.append(written)
            yield Score(written, (TokenScore(self._share, self._ratio, 0.0, True),) * len(written.token_ids))


def write_bundle(
    folder: Path, *, tag: str = "", sampling: Mapping[str, float] | None = None, roles: Sequence[Role] = ROLES
) -> Path:
    """A bundle without models; another tag makes another hash."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = ModelSpec("stub", layers=1, kv_heads=1, head_size=8, vocabulary=16, max_positions=64)
    manifest = Manifest(
        models=dict.fromkeys(roles, spec),
        vocabulary=Vocabulary(16, (0,)),
        limits=Limits(64, 8),
        files={},
        versions={"tag": tag},
        parity={role: {} for role in roles},
        sampling=sampling or {},
    )
    (folder / "spectr.json").write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return folder


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def main() -> None:
    """``spectr-batch`` with the stub; the first argument is its pause per row in seconds."""
    from spectr_jobs.cli import main as cli
    from spectr_jobs.work import models as seam
    from spectr_jobs.work.load import Load
    from spectr_jobs.work.models import RunDecoder
    from spectr_jobs.work.setup import Setup
    from spectr_runtime.planning.batch import BatchSize

    pause = float(sys.argv.pop(1))

    def open_decoder(bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> RunDecoder:
        return StubDecoder(batch_size=setup.rows, seed=seed, pause=pause)

    def choose_batch(bundle: Bundle, setup: Setup, load: Load, *, date: datetime.date, processes: int) -> BatchSize:
        return BatchSize(CHOSEN, "the stub says so")

    seam.choose_batch = choose_batch
    seam.open_decoder = open_decoder
    cli.main()


if __name__ == "__main__":
    main()
