"""Optional packages, loaded where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from spectr_runtime.errors import UsageError


def load(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Its name.
        extra: The extra of spectr that brings it.
        purpose: What it is needed for.

    Raises:
        UsageError: It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"{purpose} needs {package}.", hint=f"Install it with `pip install 'spectr[{extra}]'`."
        ) from error
