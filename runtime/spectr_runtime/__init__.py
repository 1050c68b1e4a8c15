"""The runtime decodes requests with the models of a bundle. It knows no files of prompts.

The way of the data through the decoder:

    record -> Request -> Row -> rounds -> Completion or Failure

``spectr_jobs`` reads records, makes one or more ``Request``s of each, and hands them to ``Decoder.generate``. The
decoder has each request tokenised and put into a free ``Row`` of the batch. Then it runs rounds. In each, a planner
chooses the plan, a ``Reader`` reads what the caches lack, and ``speculate`` drafts a tree of tokens for every
row, verifies it with the target, selects what is kept and commits it. A row that ends leaves the batch as a
``Completion``, and the next request gets the row.

The way of the models:

    bundle -> engines -> pair

A ``Bundle`` is a checked folder on disk. ``open_engine`` opens one of its models with a backend, and with a cache of
keys and values. A ``Pair`` holds the engines of the draft, if there is one, and of the target; decoder and scorer
each open one.

The wings, each importing only those below it:

    decoder, scorer    the two entrances: decode requests, score completions that were written
    loop               rows are admitted, turns are taken, rows that end are handed on
    planning           which plan a round takes, what rounds cost, how much memory a batch needs
    speculation        the round itself, and the pair of engines that it runs on
    reading            what brings the texts of rows into the caches
    drafting           where the drafts of a round come from
    engines            the backends that run a model
    laws               from a model's logits to the laws that tokens are drawn from
    adapter            a transformers model in the shape that the engine contract asks for
    rows               what goes in and out, and how a request fares in the batch
    contract           what the decoder asks of a model
    bundle             the bundle's format, and the weights in it
    backends, errors, files    what every wing may use
    replay                     what rounds need to be recorded once and replayed
    telemetry                  libraries that report their use are told not to, when this package is imported

Public names are imported when they are first used, so that a command's ``--help`` and its checks of records load no
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from spectr_runtime import telemetry

if TYPE_CHECKING:
    from spectr_runtime.bundle import Bundle, Manifest, ModelSpec
    from spectr_runtime.contract import Call, Engine
    from spectr_runtime.decoder import Decoder
    from spectr_runtime.engines import open_engine
    from spectr_runtime.errors import BundleError, EngineError, RequestError, RowError, SpectrError, UsageError
    from spectr_runtime.reading.counts import Reading
    from spectr_runtime.rows.drafting import DraftChoice
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

telemetry.turn_off()

_NAMES = {
    "bundle": ("Bundle", "Manifest", "ModelSpec"),
    "contract": ("Call", "Engine"),
    "decoder": ("Decoder",),
    "engines": ("open_engine",),
    "errors": ("BundleError", "EngineError", "RequestError", "RowError", "SpectrError", "UsageError"),
    "rows.drafting": ("DraftChoice",),
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
    "reading.counts": ("Reading",),
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
    "DraftChoice",
    "Engine",
    "EngineError",
    "Failure",
    "Manifest",
    "ModelSpec",
    "Outcome",
    "Plan",
    "Reading",
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
