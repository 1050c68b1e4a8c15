"""The prompts of ``drafts.py``: four kinds of work, made from names, places and pieces of the standard library."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Callable, Iterator

WORKS = ("rewrite", "code", "template", "prose")
# Modules with small functions whose sources are short and readable.
MODULES = ("heapq", "bisect", "colorsys", "textwrap", "statistics", "fnmatch", "shlex", "calendar", "string", "keyword")
FIRST = ("Anna", "Tom", "Lea", "Omar", "Mei", "Ivan", "Rosa", "Paul", "Nina", "Jon", "Aya", "Luis")
LAST = ("Keller", "Ruiz", "Tanaka", "Novak", "Okoye", "Silva", "Larsen")
PLACES = ("Lisbon", "Oslo", "Kyoto", "Porto", "Lagos", "Vienna", "Bogota", "Turku", "Leeds")
THINGS = ("desk lamp", "oak chair", "tea kettle", "bicycle pump", "wall clock", "garden hose", "rain coat")
SUBJECTS = (
    *("a lighthouse keeper", "the first snow of winter", "a lost letter", "a city without cars", "an old piano"),
    *("a walk along a river", "a bakery at dawn", "a train that never stops", "the sound of rain", "two neighbours"),
    *("a map with a mistake", "a garden on a roof", "the last day of school", "a clock that runs backwards"),
    *("a fox in the town", "a cup of tea", "the smell of books", "a ship in a bottle", "a borrowed umbrella"),
    *("a storm at sea", "an empty theatre", "a grandmother's recipe", "the edge of a forest", "a broken bridge"),
)


def prompts(work: str, count: int, *, chat: bool) -> list[str]:
    """Return prompts of a work.

    Args:
        work: A name of ``WORKS``.
        count: Their number.
        chat: Whether they ask, or are to be continued.
    """
    made = {"rewrite": _rewrite, "code": _code, "template": _template, "prose": _prose}[work]
    return [*itertools.islice(made(chat), count)]


def _people() -> Iterator[dict[str, str]]:
    for number in itertools.count():
        yield {
            "name": f"{FIRST[number % len(FIRST)]} {LAST[number % len(LAST)]}",
            "place": PLACES[(2 * number) % len(PLACES)],
            "thing": THINGS[(3 * number) % len(THINGS)],
            "order": f"{4711 + 37 * number}",
            "day": f"{number % 28 + 1} March 2026",
        }


def _letter(one: dict[str, str]) -> str:
    return (
        f"Dear {one['name']}, thank you for your order number {one['order']} of {one['day']}. The {one['thing']} left "
        f"our house in {one['place']} this morning and should reach you within three working days. If it does not "
        "arrive by then, please write to us and we will send another one free of charge."
    )


def _rewrite(chat: bool) -> Iterator[str]:
    """A text to be given again with one word replaced."""
    for one in _people():
        letter = _letter(one)
        ask = f"Repeat the following text word by word, but write 'parcel' in place of '{one['thing']}'.\n\n{letter}"
        yield ask if chat else f"# {letter}\n#\n# {letter[:60]}"


def _code(chat: bool) -> Iterator[str]:
    """A function to be given again with another name."""
    for name, source in _functions():
        ask = f"Rename the function {name} to {name}_new. Write the whole function.\n\n```python\n{source}\n```"
        first, rest = source.split("\n", 1)
        yield ask if chat else f"{source}\n\n\n{first.replace(name, name + '_new', 1)}\n{rest[:40]}"


def _functions() -> Iterator[tuple[str, str]]:
    for module in map(__import__, itertools.cycle(MODULES)):
        members: list[tuple[str, Callable[..., object]]] = inspect.getmembers(module, inspect.isfunction)
        for name, function in members:
            source = _undocumented(inspect.getsource(function))
            if function.__module__ == module.__name__ and 150 < len(source) < 900:
                yield name, source


def _undocumented(source: str) -> str:
    """Return a function without its docstring and comments."""
    tree = ast.parse(textwrap.dedent(source))
    function = tree.body[0]
    if isinstance(function, ast.FunctionDef) and ast.get_docstring(function) is not None:
        function.body = function.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def _template(chat: bool) -> Iterator[str]:
    """A record to be written in a given form."""
    form = '{"customer": {"name": ..., "city": ...}, "item": ..., "order_number": ..., "status": "sent"}'
    example = {"name": "Kim Berg", "place": "Riga", "thing": "snow shovel", "order": "1234", "day": "2 May 2025"}
    for one in _people():
        shots = "\n\n".join(f"Letter: {_letter(shot)}\nJSON: {_filled(shot)}" for shot in (example,))
        ask = f"Write the facts of the letter as JSON in the form {form}.\n\n{shots}\n\nLetter: {_letter(one)}\nJSON:"
        yield ask if chat else ask.replace("Write", "# Write")


def _filled(one: dict[str, str]) -> str:
    customer = {"name": one["name"], "city": one["place"]}
    return json.dumps({"customer": customer, "item": one["thing"], "order_number": one["order"], "status": "sent"})


def _prose(chat: bool) -> Iterator[str]:
    """Free writing, in which little repeats."""
    for subject in itertools.cycle(SUBJECTS):
        yield f"Write a short poem about {subject}." if chat else f'"""A story about {subject}.\n\n'
