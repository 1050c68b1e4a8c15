"""The few sizes to which batches and texts are padded, so that few shapes serve all rounds.

A shape that is new costs a round that is not replayed and one recording. Padding costs work: at most a third of the
rows are free, and a fifth of the slots that attention looks at hold nothing.
"""

from __future__ import annotations

ROWS = (1, 2, 3, 4, 6, 8, 12)  # and above those multiples of eight, which is what tiles of products are made of
LEAST = 64  # attention over shorter texts costs nothing that one would notice
PER_OCTAVE = 4  # lengths from one power of two to the next


def padded_rows(rows: int, most: int) -> int:
    """Return a number of rows that is at least so large, and at most the most."""
    found = next((size for size in ROWS if size >= rows), -(-rows // 8) * 8)
    return min(found, most)


def padded_count(count: int, most: int) -> int:
    """Return how many of the rows a part that only some of them need is computed for: none, or a power of two."""
    return min(1 << (count - 1).bit_length(), most) if count else 0


def padded_length(length: int, most: int) -> int:
    """Return a length of texts that is at least so large, and at most the most."""
    step = max((1 << (length.bit_length() - 1)) // PER_OCTAVE, LEAST)
    return min(-(-length // step) * step, most)
