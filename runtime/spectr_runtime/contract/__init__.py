"""The engine contract: one call for prefill, draft steps and tree verification, around any transformers causal LM."""

from spectr_runtime.contract.call import (
    CALL_INPUTS,
    DTYPES,
    OPSET,
    check_call,
    past_names,
    present_names,
)
from spectr_runtime.contract.model import ContractModel, load_contract_model

__all__ = [
    "CALL_INPUTS",
    "DTYPES",
    "OPSET",
    "ContractModel",
    "check_call",
    "load_contract_model",
    "past_names",
    "present_names",
]
