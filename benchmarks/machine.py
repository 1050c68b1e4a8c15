"""Which machine, which versions and which state of the code a result was made with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("spectr", "torch", "transformers", "onnx", "onnxruntime", "onnxruntime-genai", "tensorrt-rtx"),
    *("openvino", "openvino-genai", "optimum-intel", "llama-cpp-python"),
)
# Instructions on which the speed of products depends most.
VECTORS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
MADE = ("benchmarks/results", "docs", "*.md")  # from results: they differ once something has been measured


def revision() -> str:
    """The commit of the code that is measured, with a plus sign where code under version control differs from it."""
    try:
        commit = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", *(f":!{path}" for path in MADE))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}+" if changed else commit


def _git(*arguments: str) -> str:
    told = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()


# Before anything is measured: the files may change meanwhile.
REVISION = revision()


def machine() -> dict[str, object]:
    """Processor, its instructions, cores, memory, load, versions, date and revision: the head of every result file."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "revision": REVISION,
        "load": round(os.getloadavg()[1], 1),
        "processor": _value("model name") or platform.processor(),
        "vectors": [name for name in VECTORS if name in _value("flags").split()],
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def continues(result: Mapping[str, object], facts: Mapping[str, object]) -> bool:
    """Whether a result has these facts at its head, but for the load: then more may be added to it under that head."""
    return all(result.get(name) == value for name, value in facts.items() if name != "load")


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
