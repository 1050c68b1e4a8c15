"""The errors that a user can cause: each says what happened and what to do next, and has a process exit code."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type where the message is empty.

    Libraries may raise errors with pages of text, or with none at all.
    """
    return str(error).strip().partition("\n")[0] or type(error).__name__


OUT_OF_MEMORY = ("out of memory", "outofmemory", "can't allocate memory", "failed to allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of PyTorch, ONNX Runtime or TensorRT, or of an engine around them, means out of memory.

    The libraries raise that error in many types, so the words of its message decide.
    """
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


class SpectrError(Exception):
    """The base class of all errors that a user can cause. It is raised itself for fatal errors of no other class.

    Args:
        message: What happened, which value was received and which values are allowed.
        hint: What to do next; empty when the message already says it.
    """

    exit_code = 1
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class UsageError(SpectrError):
    """The command, an option or an argument is wrong."""

    exit_code = 2


class BundleError(SpectrError):
    """The bundle or a checkpoint can never work as it is."""

    exit_code = 42


class EngineError(SpectrError):
    """A backend failed, or cannot do what was asked of it."""


class RequestError(SpectrError):
    """One record cannot be served; the rest of the run goes on.

    Args:
        message: Which value was received and which values are allowed.
        param: The field of the record at fault, as the record's author wrote it.
        code: A short machine-readable reason, for instance ``context_length_exceeded``.
        hint: What to do next.
    """

    exit_code = 3

    def __init__(self, message: str, *, param: str | None = None, code: str = "invalid_value", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


class RowError(RequestError):
    """A row failed while it was decoded, for instance on logits that are not finite; trying again may help."""

    retryable = True
