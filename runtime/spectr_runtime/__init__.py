"""The runtime: bundles, engines and the speculative decoder. It knows no files of prompts.

Names are imported when they are first used, so that a command's ``--help`` and its checks of records need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spectr_runtime.bundle import Bundle, Manifest, ModelSpec
    from spectr_runtime.contract import Call, Engine
    from spectr_runtime.decoder import Decoder
    from spectr_runtime.engines import open_engine
    from spectr_runtime.errors import BundleError, EngineError, RequestError, RowError, SpectrError, UsageError
    from spectr_runtime.rows.request import (
        Chat,
        Completion,
        Failure,
        Outcome,
        Request,
        SamplingParams,
        SpeculationStats,
        TokenLogprob,
        Usage,
    )
    from spectr_runtime.speculation.plan import Plan, rule_names
    from spectr_runtime.speculation.timing import Timing

_NAMES = {
    "bundle": ("Bundle", "Manifest", "ModelSpec"),
    "contract": ("Call", "Engine"),
    "decoder": ("Decoder",),
    "engines": ("open_engine",),
    "errors": ("BundleError", "EngineError", "RequestError", "RowError", "SpectrError", "UsageError"),
    "rows.request": (
        "Chat",
        "Completion",
        "Failure",
        "Outcome",
        "Request",
        "SamplingParams",
        "SpeculationStats",
        "TokenLogprob",
        "Usage",
    ),
    "speculation.plan": ("Plan", "rule_names"),
    "speculation.timing": ("Timing",),
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Bundle",
    "BundleError",
    "Call",
    "Chat",
    "Completion",
    "Decoder",
    "Engine",
    "EngineError",
    "Failure",
    "Manifest",
    "ModelSpec",
    "Outcome",
    "Plan",
    "Request",
    "RequestError",
    "RowError",
    "SamplingParams",
    "SpectrError",
    "SpeculationStats",
    "Timing",
    "TokenLogprob",
    "Usage",
    "UsageError",
    "open_engine",
    "rule_names",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
