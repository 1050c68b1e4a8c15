"""Errors of a run beside the runtime's own: an input that can never work, a run that was interrupted."""

from __future__ import annotations

from spectr_runtime.errors import SpectrError


class InputError(SpectrError):
    """The input can never work as it is; schedulers must not try it again."""

    exit_code = 42


class Interrupted(SpectrError):
    """The run stopped before its end; the same command goes on."""

    exit_code = 75
    retryable = True
