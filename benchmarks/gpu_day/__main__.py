"""Runs one part: ``python -m gpu_day PART RESULT DAY``, where DAY is JSON."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from gpu_day.day import Day
from gpu_day.record import Record

PARTS = {"a": "suite", "b": "decoding", "c": "texts", "d": "selecting", "e": "engines"}
OTHERS = {"predict": "predict", "page": "page"}


def main(part: str, result: str, day: str) -> None:
    """Measure the part."""
    told, record = Day.from_json(day), Record(Path(result))
    if part in PARTS and told.device == "cuda":
        from gpu_day.device import gpu

        record.head({"gpu": gpu()})
    importlib.import_module(f"gpu_day.{(PARTS | OTHERS)[part]}").measure(told, record)


if __name__ == "__main__":
    main(*sys.argv[1:])
