"""Commands that load no model: ``startup.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, ratio, table


def commands(result: dict[str, Any]) -> str:
    """What is shown, and a line for each command."""
    lines = [(f"`{one['command']}`", ratio(one["seconds"], *one["range"])) for one in result["commands"]]
    return (
        "Wall time of a command in a process of its own, as a user starts it: medians of "
        f"{result['repeats']} runs, the commands in turn, with their range, {measured(result)}.\n\n"
        + table(("command", "seconds"), lines)
    )


QUOTES = {"startup": ("startup.json", commands)}
