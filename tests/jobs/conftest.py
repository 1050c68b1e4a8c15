from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import CHOSEN, StubDecoder, write_bundle, write_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.drivers import local
from spectr_jobs.drivers.shards import left_over
from spectr_jobs.work import models as seam
from spectr_jobs.work.load import Load
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime import Bundle
from spectr_runtime.planning.batch import BatchSize


@dataclasses.dataclass
class Result:
    code: int
    out: str
    err: str
    decoder: StubDecoder | None


Batch = Callable[..., Result]


@dataclasses.dataclass
class Chosen:
    """What a batch size was asked for: the load, and the processes on the machine."""

    load: Load
    processes: int


@pytest.fixture(autouse=True)
def chosen() -> Iterator[list[Chosen]]:
    """Gives every process that chooses its batch size the one of the stub; what it was asked for."""
    asked: list[Chosen] = []

    def choose_batch(bundle: Bundle, setup: Setup, load: Load, *, date: datetime.date, processes: int) -> BatchSize:
        asked.append(Chosen(load, processes))
        return BatchSize(CHOSEN, "the stub says so")

    with pytest.MonkeyPatch.context() as patch:  # of its own, since tests undo what they patched
        patch.setattr(seam, "choose_batch", choose_batch)
        yield asked


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Batch:
    """Runs ``spectr-batch`` in this process with the stub decoder; keywords go to the decoder.

    With ``own_shards`` a rank leaves the shards of others alone, as if others were at work on them.
    """

    def run(*arguments: object, stop: Stop | None = None, own_shards: bool = False, **options: Any) -> Result:
        opened: list[StubDecoder] = []

        def open_decoder(bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> StubDecoder:
            opened.append(StubDecoder(batch_size=setup.rows, seed=seed, date=date, **options))
            opened[-1].plan, opened[-1].call_shape = setup.plan, setup.call_shape
            return opened[-1]

        monkeypatch.setattr(seam, "open_decoder", open_decoder)
        monkeypatch.setattr(local, "left_over", (lambda run, given_up, stop: iter(())) if own_shards else left_over)
        capsys.readouterr()
        code = cli.call([str(argument) for argument in arguments], stop)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err, opened[-1] if opened else None)

    return run


@pytest.fixture
def after_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """Arranges what happens, once, when the decoder has finished so many rows."""
    real = StubDecoder._outcome

    def arrange(rows: int, act: Callable[[], object]) -> None:
        left = iter(range(rows))

        def outcome(self: StubDecoder, request: Any) -> Any:
            if next(left, None) is None:
                monkeypatch.setattr(StubDecoder, "_outcome", real)
                act()
            return real(self, request)

        monkeypatch.setattr(StubDecoder, "_outcome", outcome)

    return arrange


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twenty simple records, one of them without an id."""
    records: list[dict[str, Any]] = [
        {"id": f"row-{n}", "prompt": f"Say {n}", "max_tokens": 5, "n_th": n} for n in range(20)
    ]
    del records[7]["id"]
    return write_lines(tmp_path / "prompts.jsonl", records)
