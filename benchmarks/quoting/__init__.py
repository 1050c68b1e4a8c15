"""What the documents say of measurements: texts in Markdown, each made from a result file.

A module of this package has a topic and names what it can write in ``QUOTES = {"name": ("result.json", function)}``.
The function is given the result and returns paragraphs, lists and tables, in which figures, dates and machines are
those of the result; what holds only for today's figures is computed or not said. ``quote.py`` puts the texts into the
documents, where paragraphs are wrapped.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

Quote = tuple[str, Callable[[Any], str]]


def joined() -> dict[str, Quote]:
    """Return the quotes of all modules; modules with words that several topics use have none."""
    found: dict[str, Quote] = {}
    for module in iter_modules(__path__):
        own: dict[str, Quote] = getattr(import_module(f"{__name__}.{module.name}"), "QUOTES", {})
        if twice := found.keys() & own.keys():
            raise ValueError(f"quoting/{module.name}.py: another module has quotes of these names: {sorted(twice)}")
        found |= own
    return found


QUOTES = joined()
