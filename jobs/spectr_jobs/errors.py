"""The errors of a run that the runtime does not define: a useless input, a changed one, and an interruption."""

from __future__ import annotations

from spectr_runtime.errors import SpectrError


class InputError(SpectrError):
    """The input cannot be decoded as it is, so that schedulers must not start the command again."""

    exit_code = 42


class InputChanged(SpectrError):
    """An input is not what it was when the run began. Once it is put back, the same command continues the run."""

    exit_code = 65


class Interrupted(SpectrError):
    """The run stopped before its end. Running the same command again continues it."""

    exit_code = 75
    retryable = True
