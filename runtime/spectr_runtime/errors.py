"""Every error a user can cause: what happened, what to do next, and the exit code that a scheduler sees."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """What an error of a library says first; libraries may say much, or nothing at all."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, ONNX Runtime, TensorRT or of an engine around them says that memory ran out.

    The libraries raise it in many shapes, so the words decide.
    """
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in OUT_OF_MEMORY)


class SpectrError(Exception):
    """The root of the tree: a fatal error.

    Args:
        message: What happened, what was got and what is allowed.
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
    """A backend failed or is not what was asked for."""


class RequestError(SpectrError):
    """One record cannot be served; the rest of the run goes on.

    Args:
        message: What was got and what is allowed.
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
