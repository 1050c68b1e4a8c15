"""Optional packages: imported where they are used, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType

from spectr_runtime.errors import UsageError


def load(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: The module's name.
        extra: The extra of spectr that installs it, for instance ``zstd``.
        purpose: What needs the module; the message of the error begins with it.

    Raises:
        UsageError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UsageError(
            f"{purpose} needs {package}.", hint=f"Install it with `pip install 'spectr[{extra}]'`."
        ) from error
