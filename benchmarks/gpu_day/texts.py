"""Part c: how many rows get another text when calls have other shapes, and what one shape for all calls costs.

A row's text is to depend on its request alone. The one exception are the last bits of a model's logits, which may
differ between shapes; at temperature 1 they seldom decide. Rows are decoded as usual and with one shape for all calls.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_day.day import SIZES, Day, plan_of
from gpu_day.device import settle
from gpu_day.padded import Padded, requests_of
from gpu_day.record import Record
from spectr_runtime import Completion, Decoder, Request

ROWS = 32
TOKENS = 12
ALONE = 100  # rows that are decoded alone in the shape of a batch
RACE = "race:1:4"
CALL = {"free": None, "fixed": 5}  # tokens of a row in a call: the root and the drafts of the race
DECODED = {"toy": "toy", "1b": "1b", "7b": "1b"}  # row by row, 7b would take the day
Texts = dict[str, tuple[int, ...]]


def measure(day: Day, record: Record) -> None:
    """Compare texts in both types, in free and in fixed shapes."""
    size = DECODED[day.size]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        for dtype in ("bfloat16", "float32"):
            pair = Padded(Path(folder) / dtype, SIZES[size], dtype, day.device)
            requests = requests_of(pair.bundle, day.texts, TOKENS)
            gc.freeze()  # as in part b
            for shapes, call_tokens in CALL.items():
                record.note("c", size=size, rows=day.texts, tokens=TOKENS)
                _compare(day, pair, requests, f"{dtype}, {shapes}", call_tokens, record)


def _compare(
    day: Day, pair: Padded, requests: Sequence[Request], name: str, call_tokens: int | None, record: Record
) -> None:
    """Decode rows in several ways, and note after each how many texts are not those of plain decoding, 32 at a time."""

    def open_decoder(cell: str, rows: int, replays: bool | None = None) -> Decoder:
        return Decoder(
            pair.bundle, plan=plan_of(cell), backend="torch", device=day.device, batch_size=rows, replays=replays,
            call_tokens=call_tokens, prefix_tokens=0,
        )  # fmt: skip

    some = requests[:ALONE]
    ways: dict[str, tuple[Decoder, Sequence[Sequence[Request]]]] = {
        "plain": (open_decoder("plain", ROWS), [requests]),
        "race": (open_decoder(RACE, ROWS), [requests]),
        "not replayed": (open_decoder("plain", ROWS, replays=False), [requests]),
        # With one shape a row that is alone has the calls of a batch, of which the other rows are free. Every row is a
        # call of the decoder's then, which would record anew.
        "one row": (open_decoder("plain", 1), [requests])
        if call_tokens is None
        else (open_decoder("plain", ROWS, replays=False), [[one] for one in some]),
    }
    plain: Texts = {}
    figures: dict[str, Any] = {}
    for way, (decoder, calls) in ways.items():
        texts, seconds = _decode(decoder, calls, requests[: decoder.batch_size], day.device)
        plain = plain or texts
        differ = sum(text != plain[row] for row, text in texts.items())
        figures[way] = {"differ": differ, "of": len(texts), "seconds": round(seconds, 3)}
        record.cell("c", name, figures)
        print(name, way, figures[way], flush=True)


def _decode(
    decoder: Decoder, calls: Sequence[Sequence[Request]], first: Sequence[Request], device: str
) -> tuple[Texts, float]:
    """Return the texts of all calls of a decoder, and the seconds they took after a call to warm up."""
    list(decoder.generate(first))
    settle(device)
    started, texts = time.perf_counter(), Texts()
    for requests in calls:
        for row in decoder.generate(requests):
            if not isinstance(row, Completion):
                raise RuntimeError(f"{row.id}: {row.error}")
            texts[row.id] = row.token_ids
    return texts, time.perf_counter() - started
