"""The forms in which export speaks to a person: lines of progress, and pages of labelled lines.

A page looks like this::

    target      llama, float32, 2 layers
    vocabulary  257 tokens
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

# Takes one line of progress.
Say = Callable[[str], None]


def page(lines: Iterable[tuple[str, str]], width: int = 12) -> str:
    """Return labelled lines, their texts aligned.

    Args:
        lines: Label and text of each line; a line that continues the one above has an empty label.
        width: Width of the column of labels.
    """
    return "\n".join(f"{label:<{width}}{text}" for label, text in lines)
