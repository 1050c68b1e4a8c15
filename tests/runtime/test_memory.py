"""Running out of memory halves the batch and changes no row."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from support import TableEngine

from spectr_runtime import Completion, Decoder, EngineError, Plan, Request, SamplingParams
from spectr_runtime.contract import Call
from spectr_runtime.errors import is_out_of_memory
from spectr_runtime.speculation.plan import PlanChoice

OpenDecoder = Callable[..., Decoder]
CUDA = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"
REQUESTS = [Request(str(row), (1, 3, 2), SamplingParams(max_tokens=5 + 3 * row)) for row in range(10)]


class SmallEngine(TableEngine):
    """A table engine with memory for three rows, once it has run a while."""

    def forward(self, call: Call) -> torch.Tensor:
        if len(call.input_ids_BT) > 3 and len(self.calls) > 6:
            raise EngineError(f"PyTorch failed in a call: {CUDA}")
        return super().forward(call)


def texts(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    return {one.id: one.token_ids for one in decoder.generate(REQUESTS) if isinstance(one, Completion)}


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), "auto"], ids=str)
def test_a_batch_that_does_not_fit_is_halved(
    open_decoder: OpenDecoder, plan: PlanChoice, caplog: pytest.LogCaptureFixture
) -> None:
    expected = texts(open_decoder(plan, batch_size=2))
    decoder = open_decoder(plan, batch_size=8)
    for engine in filter(None, (decoder._pair.draft, decoder._pair.target)):
        engine.__class__ = SmallEngine
    with caplog.at_level(logging.WARNING):
        assert texts(decoder) == expected
    assert decoder.batch_size == 2
    assert [record.message for record in caplog.records if "memory" in record.message] == [
        "No memory for 8 rows; going on with 4.",
        "No memory for 4 rows; going on with 2.",
    ]


def test_models_that_do_not_fit_are_opened_with_fewer_rows(open_decoder: OpenDecoder) -> None:
    class Picky(TableEngine):
        def __init__(self, *arguments: int, rows: int, **sizes: int) -> None:
            if rows > 2:
                raise EngineError(f"PyTorch cannot hold target with {rows} rows: {CUDA}")
            super().__init__(*arguments, rows=rows, **sizes)

    assert open_decoder(Plan("kseq", 2, 2), batch_size=9, engine=Picky, device="cuda").batch_size == 2
    with pytest.raises(EngineError, match="with 9 rows"):
        open_decoder(Plan("kseq", 2, 2), batch_size=9, engine=Picky)


def test_other_errors_and_a_single_row_without_memory_are_raised(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=1)
    for message in ("PyTorch failed in a call: an illegal address", CUDA):

        def fail(call: Call, message: str = message) -> torch.Tensor:
            raise EngineError(message)

        decoder._pair.target.forward = fail  # type: ignore[method-assign]
        with pytest.raises(EngineError, match=message[:20]):
            texts(decoder)


def test_the_shapes_in_which_memory_runs_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError(CUDA))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(EngineError("ONNX Runtime failed: Failed to allocate memory for a buffer"))
    # What TensorRT says last of an execution context without room (NVIDIA/TensorRT, issue 3017).
    last = "2: [executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)"
    assert is_out_of_memory(EngineError(f"TensorRT has no room to run profile decode: {last}"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
