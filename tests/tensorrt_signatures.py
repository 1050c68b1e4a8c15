"""The signatures of TensorRT's Python API that spectr relies on, read from a module's own documentation.

    python tests/tensorrt_signatures.py tensorrt_bindings > signatures of that release, as JSON

``tensorrt_signatures.json`` holds those of releases of TensorRT that no test can import, for their libraries need a GPU
and are not on the package index. Their Python bindings are there (``tensorrt-cu13-bindings``) and can be imported to be
read, not used, beside empty libraries of the names that they ask for.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")
# Members by their class: what spectr_export and spectr_runtime call, set or read.
NAMES = {
    "Builder": "__init__ build_serialized_network create_builder_config create_network create_optimization_profile "
    "logger",
    "BuilderFlag": "TF32 WEIGHT_STREAMING",
    "EngineInspector": "get_engine_information",
    "ExecutionContextAllocationStrategy": "USER_MANAGED",
    "IAttention": "decomposable",
    "IAttentionInputLayer": "attention",
    "IBuilderConfig": "add_optimization_profile clear_flag create_timing_cache get_timing_cache profiling_verbosity "
    "progress_monitor set_flag set_memory_pool_limit set_timing_cache",
    "ICudaEngine": "create_engine_inspector create_execution_context device_memory_size_v2 "
    "get_weight_streaming_automatic_budget weight_streaming_budget_v2",
    "IExecutionContext": "execute_async_v3 set_device_memory set_input_shape set_optimization_profile_async "
    "set_tensor_address",
    "IHostMemory": "nbytes",
    "ILayer": "type",
    "ILogger": "__init__ log",
    "ILogger.Severity": "ERROR INTERNAL_ERROR WARNING",
    "INetworkDefinition": "get_layer num_layers",
    "IOptimizationProfile": "set_shape",
    "IProgressMonitor": "__init__ phase_finish phase_start step_complete",
    "ITimingCache": "serialize",
    "LayerInformationFormat": "ONELINE",
    "LayerType": "ATTENTION_INPUT",
    "MemoryPoolType": "WORKSPACE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "__init__ get_error num_errors parse",
    "ParserError": "desc node_name node_operator",
    "ProfilingVerbosity": "DETAILED",
    "Runtime": "__init__ deserialize_cuda_engine",
}


def read_signatures(module: Any) -> dict[str, Any]:
    """What ``NAMES`` are in a module: of methods every overload, of properties the type, of enumerations the number."""
    members = [(owner, name) for owner, names in NAMES.items() for name in names.split()]
    return {f"{owner}.{name}": _read(module, owner, name) for owner, name in members}


def _read(module: Any, owner: str, name: str) -> Any:
    for part in owner.split("."):
        module = getattr(module, part)
    member = getattr(module, name)
    if isinstance(member, property):
        return {"type": _plain(member.fget.__doc__).rpartition(" -> ")[2], "settable": member.fset is not None}
    if callable(member):
        return [_plain(line) for line in re.findall(rf"^(?:\d+\. )?{name}(\(self.*)$", member.__doc__, re.MULTILINE)]
    return int(member)


def _plain(signature: str) -> str:
    """A signature without its receiver, with the short names of types."""
    short = re.sub(r"(?:typing|typing_extensions|tensorrt\w*)\.(?:tensorrt\w*\.)?", "", signature.strip())
    for old, new in (("SupportsInt", "int"), ("buffer", "Buffer"), ("nvonnxparser::IParserError", "ParserError")):
        short = short.replace(old, new)
    return re.sub(r"^\(self: [\w.]+(?:, )?", "(", short)


if __name__ == "__main__":
    print(json.dumps(read_signatures(importlib.import_module(sys.argv[1])), indent=1))
