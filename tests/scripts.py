"""The scripts of ``examples/`` and ``benchmarks/`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def load_script(name: str) -> ModuleType:
    """Return a new module of a script, given its path in the repository."""
    path = ROOT / name
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what annotations mean
    spec.loader.exec_module(module)
    return module


def load_benchmark(name: str) -> ModuleType:
    """Return a new module of a script under ``benchmarks/``, which imports others from there and from ``examples/``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples")
        patch.syspath_prepend(ROOT / "benchmarks")
        return load_script(f"benchmarks/{name}.py")
