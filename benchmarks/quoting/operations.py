"""Work between two calls: ``draw.py`` and ``fused.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import counted, measured, ratio, span, table


def drawing(result: dict[str, Any]) -> str:
    """A token by a race and by the inverted law."""
    rows = []
    for line in result["lines"]:
        low, middle, high = line["ratio"]
        size = f"{line['vocabulary']:,}", str(line["rows"])
        rows.append((*size, f"{line['race'][1]:.1f} ms", f"{line['inverse'][1]:.1f} ms", ratio(middle, low, high)))
    return (
        f"{counted(result['threads'], 'thread').capitalize()}, medians of {result['repeats']} draws in turn, with the "
        f"quartiles of the ratio, {measured(result)}:\n\n"
        + table(("vocabulary", "rows", "race", "inverted law", "ratio"), rows)
    )


def fusing(result: dict[str, Any]) -> str:
    """From logits to the token of a race, eager and compiled."""
    whole = [line for line in result["lines"] if "failed" not in line]
    rows = []
    for line in result["lines"]:
        size = f"{line['vocabulary']:,}", str(line["rows"])
        if "failed" in line:
            rows.append((*size, "", "the process ended abruptly", ""))
        else:
            low, middle, high = line["ratio"]
            times = (f"{line['milliseconds'][way]:.2f} ms" for way in ("eager", "compiled"))
            rows.append((*size, *times, ratio(middle, low, high)))
    return (
        "`torch.compile` made one loop of the thirty operations from logits to the token of a race, in "
        f"{span((line['seconds_to_compile'] for line in whole), '.0f')} seconds for each shape, {measured(result)}; "
        f"medians of {result['repeats']} in turn, with the quartiles of the ratio:\n\n"
        + table(("vocabulary", "rows", "eager", "compiled", "eager / compiled"), rows)
        + f"\n\nThe laws of both ways are the same to the bit in {sum(line['same_laws'] for line in whole)} of "
        f"{len(whole)} shapes, the tokens in {sum(line['same_tokens'] for line in whole)}."
    )


QUOTES = {"drawing": ("draw.json", drawing), "fusing": ("fused.json", fusing)}
