"""The engine contract: what the decoder asks of a model, in one call for prefill, draft steps and tree verification.

The modules:

    engine    the protocol of an engine
    call      the inputs of a call, their names in a graph, and their check
    head      the check of what a head is fed beside tokens
    cache     the keys and values that an engine keeps between calls
    mask      which slots of the cache a fed token sees
"""

from spectr_runtime.contract.cache import KVCache
from spectr_runtime.contract.call import (
    CALL_INPUTS,
    DTYPES,
    HEAD_INPUTS,
    OPSET,
    STATES,
    Call,
    HeadInputs,
    check_call,
    past_names,
    present_names,
)
from spectr_runtime.contract.engine import Engine, Output
from spectr_runtime.contract.head import check_head

__all__ = [
    "CALL_INPUTS",
    "DTYPES",
    "HEAD_INPUTS",
    "OPSET",
    "STATES",
    "Call",
    "Engine",
    "HeadInputs",
    "KVCache",
    "Output",
    "check_call",
    "check_head",
    "past_names",
    "present_names",
]
