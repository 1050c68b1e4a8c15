"""Constants as tensors, which are made once: the host would wait for each copy to an accelerator.

They are kept as long as they are among those that were used last. Who goes on to use the memory of one, as a recording
of a round does, must hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made", torch.Tensor, tuple[torch.Tensor, torch.Tensor])
_HOLDERS: list[list[object]] = []


def constant(most: int) -> Callable[[Callable[Arguments, Made]], Callable[Arguments, Made]]:
    """Keep what a function returns for the arguments that were used last. Do not write to the results.

    Args:
        most: For how many arguments.
    """

    def keeping(make: Callable[Arguments, Made]) -> Callable[Arguments, Made]:
        cached = lru_cache(most)(make)

        @wraps(make)
        def kept(*arguments: Arguments.args, **options: Arguments.kwargs) -> Made:
            made = cached(*arguments, **options)  # type: ignore[arg-type]
            for holder in _HOLDERS:
                holder.append(made)
            return made

        return kept

    return keeping


@contextmanager
def holding() -> Iterator[list[object]]:
    """Collect the constants that are used while the block runs; they live as long as the list."""
    held: list[object] = []
    _HOLDERS.append(held)
    try:
        yield held
    finally:
        _HOLDERS.pop()
