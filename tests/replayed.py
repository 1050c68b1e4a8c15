"""A double of CUDA graphs on the CPU: what is recorded is a list of operators, and a replay runs them again.

As with a graph, a replay runs none of Python, and reads and writes the tensors that were there when it was recorded:
what the host knew then stays as it was, and so does every address.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from capturable import capturable
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectr_runtime.replay.recorder import Recorder
from spectr_runtime.speculation.pair import Pair


class Tape(TorchDispatchMode):
    """Runs operators, keeps them to run them again, and undoes what they wrote to."""

    def __init__(self) -> None:
        super().__init__()
        self._operators: list[tuple[Any, Sequence[Any], Mapping[str, Any], list[torch.Tensor]]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, operator: Any, types: object, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        options = options or {}
        with self:  # in inference mode operators come whole that consist of others
            parts = operator.decompose(*arguments, **options)
        if parts is not NotImplemented:
            return parts
        if operator._schema.is_mutable:
            for leaf in tree_leaves((arguments, options)):
                if isinstance(leaf, torch.Tensor):
                    storage = leaf.untyped_storage()
                    self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        result = operator(*arguments, **options)
        written = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._operators.append((operator, arguments, options, written))
        return result

    def undo(self) -> None:
        """Give all memory that was written to what it held before."""
        for storage, before in self._before.values():
            storage.copy_(before)
        self._before.clear()

    def play(self) -> None:
        """Run the operators again; each result goes to where it was the first time."""
        for operator, arguments, options, written in self._operators:
            again = [leaf for leaf in tree_leaves(operator(*arguments, **options)) if isinstance(leaf, torch.Tensor)]
            for kept, new in zip(written, again, strict=True):
                if kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class TapeRecorder:
    """A ``Recorder`` of tapes.

    A graph is recorded without being run. Here it is run, and that is undone.

    Attributes:
        recorded: How often something was recorded.
        replayed: How often a recording was replayed.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        tape = Tape()
        with capturable(), tape:
            output = work()
        tape.undo()
        self.recorded += 1

        def replay() -> torch.Tensor:
            tape.play()
            self.replayed += 1
            return output

        return replay

    def settle(self) -> None: ...


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    """Let decoders that are opened from here on record their rounds, and issue them ahead, as on a GPU.

    Those that are opened with ``replays=False`` do not.
    """
    recorder = TapeRecorder()

    def open_recorder(device: torch.device, pair: Pair, replays: bool | None) -> Recorder | None:
        return None if replays is False else recorder

    for engines in ("torch", "tensorrt"):  # on the CPU they look at the slots that are written, and nowhere else
        monkeypatch.setattr(f"spectr_runtime.engines.{engines}.check_call", lambda *_: None)
    monkeypatch.setattr("spectr_runtime.speculation.turn.open_recorder", open_recorder)
    return recorder
