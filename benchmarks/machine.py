"""Which machine and which versions a result was made with."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("spectr", "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-genai", "tensorrt-rtx"),
    *("openvino", "openvino-genai", "optimum-intel", "llama-cpp-python"),
)
# Instructions on which the speed of products depends most.
VECTORS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def machine() -> dict[str, object]:
    """Processor, its vector instructions, cores, memory, versions and date, as the head of every result file."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _value("model name") or platform.processor(),
        "vectors": [name for name in VECTORS if name in _value("flags").split()],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _value(field: str) -> str:
    """Return what Linux says of the first processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
