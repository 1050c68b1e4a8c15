"""Rounds on their way: issued to the device, and read once what they wrote is there.

The first two rounds of a shape are issued operation by operation, then it is recorded, and from there on the recording
is replayed. Where nothing can be recorded, as on a CPU, all rounds are issued like the first one.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch

from spectr_runtime.drafting.source import Source
from spectr_runtime.errors import EngineError, UsageError, first_line
from spectr_runtime.laws.logprobs import Logprobs
from spectr_runtime.replay.recorder import CudaGraphs, Recorder
from spectr_runtime.replay.transfer import Download, Layout, Parcel, Upload, joined
from spectr_runtime.rows.row import Row, Scored
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.round import Emitted, speculate
from spectr_runtime.speculation.shape import Shape
from spectr_runtime.speculation.state import BatchState
from spectr_runtime.speculation.timing import DeviceTiming, Timing
from spectr_select import holding

LOG = logging.getLogger(__name__)
# Shapes whose rounds are kept ready. A recording keeps little memory for tensors of its own, but the driver keeps some
# kilobytes for each of its operations.
MOST_SHAPES = 64


class Landed(NamedTuple):
    """What a round wrote, on the host.

    Attributes:
        tokens: For each row the accepted drafts, then the correction or bonus token; what comes after it is -1.
        accepted: Number of accepted drafts of each row.
        sound: False where a model's logits were not finite; the tokens of such a row mean nothing.
        nodes_BN: The tokens of the tree, as they were drafted; the root's first.
        logprobs: For the rows that want log-probabilities, per token: the token's own, then the most probable ones.
    """

    tokens: list[list[int]]
    accepted: list[int]
    sound: list[bool]
    nodes_BN: torch.Tensor
    logprobs: Mapping[int, list[list[Scored]]]


class Flight(NamedTuple):
    """A round that was issued.

    Attributes:
        source: What drafted in it.
        phases: The seconds of its phases: those that the host spent, or, of a replayed round, shares of one.
        replayed: Whether it was replayed.
        scored: The indices of the rows that want log-probabilities.
        download: What it wrote.
    """

    source: Source
    phases: Timing
    replayed: bool
    scored: Sequence[int]
    download: Download

    def land(self) -> Landed:
        """Wait for the round, and return what it wrote."""
        found = self.download.tensors()
        logprobs = Logprobs(found["logprob_tokens"], found["logprobs"].view(torch.float64)) if self.scored else None
        return Landed(
            tokens=found["tokens"].tolist(),
            accepted=found["accepted"].tolist(),
            sound=found["sound"].bool().tolist(),
            nodes_BN=found["nodes"],
            logprobs=dict(zip(self.scored, logprobs.listed(), strict=False)) if logprobs else {},
        )


class _Recording(NamedTuple):
    """A round that was recorded: what drafts in it, what replays it, and the constants whose memory it reads."""

    source: Source
    replay: Callable[[], torch.Tensor]
    constants: list[object]


@dataclasses.dataclass(slots=True)
class _Ready:
    """A shape that was run: where its rounds are told things, what they write, and their recording if there is one."""

    upload: Upload
    layout: Layout = dataclasses.field(default_factory=dict)
    shares: Timing = dataclasses.field(default_factory=Timing)
    recording: _Recording | None = None


class Launcher:
    """Issues rounds.

    Args:
        rows: Number of rows of the batch.
        vocabulary: Number of tokens of the vocabulary.
        device: Device of the models.
        recorder: Records rounds; None to issue every one operation by operation.
    """

    def __init__(self, rows: int, vocabulary: int, device: torch.device, recorder: Recorder | None) -> None:
        self._device = device
        self._recorder = recorder
        self._state = BatchState(rows, vocabulary, device)
        self._ready: OrderedDict[Shape, _Ready] = OrderedDict()
        self._moves: tuple[int, ...] = ()
        self._taken: list[Row | None] = []

    def carried(self, batch: Sequence[Row | None]) -> set[int]:
        """Return the indices of rows whose texts the device knows, since they took part in the last round there."""
        pairs = enumerate(zip(batch, self._taken, strict=False))
        return {index for index, (row, taken) in pairs if row is not None and row is taken}

    def launch(
        self, shape: Shape, parcel: Parcel, batch: Sequence[Row | None], behind: Collection[int], pair: Pair
    ) -> Flight:
        """Issue a round.

        Args:
            shape: Its shape.
            parcel: What it is told.
            batch: The rows by their index; None for a free one.
            behind: The indices of rows that take no part.
            pair: The models, whose caches hold the texts of these rows but for their last tokens.

        Raises:
            EngineError: A call fails, or there is no memory.
        """
        carried = self.carried(batch)
        for index, row in enumerate(batch):
            if row is not None and index not in carried and index not in behind:
                self._state.load(index, row)
        self._taken = [None if index in behind else row for index, row in enumerate(batch)]
        moves = pair.hold(shape.rows, shape.slots)
        if moves != self._moves:
            self._drop()
            self._moves = moves
        scored = [index for index, row in enumerate(batch) if row is not None and _wants_logprobs(row)]
        ready = self._ready.get(shape) or _Ready(Upload(parcel.layout, self._device))
        ready.upload.send(parcel)
        if ready.recording is not None:
            self._ready.move_to_end(shape)
            words = ready.recording.replay()
            return Flight(ready.recording.source, ready.shares, True, scored, Download(words, ready.layout))
        source = pair.source(shape.plan)
        timing = Timing() if self._recorder is None else DeviceTiming(self._recorder.settle)
        words = self._work(shape, ready, source, pair, timing)
        flight = Flight(source, timing, False, scored, Download(words, ready.layout))
        if self._recorder is not None:
            ready.shares = timing.shares()
            self._keep(self._recorder, shape, ready, pair)
        return flight

    def _keep(self, recorder: Recorder, shape: Shape, ready: _Ready, pair: Pair) -> None:
        """Take note of a round that was issued; once a shape has come again, record it.

        It is recorded behind a round of its own shape, so that whatever an engine must have run before is at hand.
        """
        if shape in self._ready:
            self._record(recorder, shape, ready, pair)
        self._ready[shape] = ready
        self._ready.move_to_end(shape)
        if len(self._ready) > MOST_SHAPES:
            self._ready.popitem(last=False)

    def _work(self, shape: Shape, ready: _Ready, source: Source, pair: Pair, timing: Timing) -> torch.Tensor:
        """Issue the operations of a round, and return all that it writes for the host as one vector."""
        told, (_, target) = ready.upload.tensors, pair.engines
        with timing.measure("draft"):
            rows = self._state.rows(shape, told)
        emitted = speculate(shape.plan, source, target, rows, timing, shape.tokens)
        with timing.measure("commit"):
            self._state.keep(shape, told, rows, emitted)
            written = written_by(emitted)
            ready.layout = {name: tuple(tensor.shape) for name, tensor in written.items()}
            return joined(written)

    def _record(self, recorder: Recorder, shape: Shape, ready: _Ready, pair: Pair) -> None:
        """Record the rounds of a shape."""
        source = pair.source(shape.plan)
        try:
            with holding() as constants:
                replay = recorder.record(lambda: self._work(shape, ready, source, pair, Timing()))
            ready.recording = _Recording(source, replay, constants)
        except (RuntimeError, EngineError) as error:  # what failed first is the context of what ending it raised
            reason = first_line(error.__context__ or error)
            LOG.warning("Rounds cannot be recorded, and take longer than they need to: %s", reason)
            self._recorder = None

    @property
    def records(self) -> bool:
        """Whether rounds are recorded, so that the first ones of a shape take longer than later ones."""
        return self._recorder is not None

    def forget(self) -> None:
        """Forget what the device knows of rows, and all recordings: the memory that they work on is not what it was."""
        self._drop()
        self._taken = []

    def _drop(self) -> None:
        """Give up the recordings of all rounds."""
        if self._recorder is not None and self._ready:
            self._recorder.settle()  # the device may be at work on one of them
        self._ready.clear()


def written_by(emitted: Emitted) -> dict[str, torch.Tensor]:
    """Return what a round writes for the host, by the names that ``Flight.land`` knows."""
    written = {
        "tokens": emitted.tokens_BD1,
        "accepted": emitted.accepted_B,
        "sound": emitted.sound_B,
        "nodes": emitted.nodes_BN,
    }
    if emitted.logprobs is not None:
        written |= {"logprob_tokens": emitted.logprobs.tokens_RDP, "logprobs": emitted.logprobs.logprobs_RDP}
    return written


def open_recorder(device: torch.device, pair: Pair, replays: bool | None) -> Recorder | None:
    """Return what records the rounds of a pair; None if they are issued operation by operation.

    Args:
        device: The device of the models.
        pair: The models.
        replays: Whether rounds are recorded; None for what the device and the engines allow.

    Raises:
        UsageError: Rounds are to be recorded, and the device or an engine does not allow it.
    """
    allowed = device.type == "cuda" and pair.capturable
    if replays and not allowed:
        raise UsageError(
            f"Rounds are to be replayed, and these on {device} cannot be recorded: that takes a GPU and engines of "
            "PyTorch or TensorRT.",
            hint="Leave replays out, which replays where that is possible.",
        )
    return CudaGraphs(device) if allowed and replays is not False else None


def _wants_logprobs(row: Row) -> bool:
    return row.request.params.logprobs is not None
