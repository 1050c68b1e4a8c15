"""The library behind TensorRT's backends: its absence, its log, and the key of a machine."""

from __future__ import annotations

import sys

import pytest
import torch
from tensorrt_double import RELEASES, Double

from spectr_runtime import EngineError
from spectr_runtime.bundle.compiled import EngineKey
from spectr_runtime.engines.tensorrt_library import Log, load_tensorrt, machine_key, make_logger
from spectr_runtime.errors import first_line


@pytest.fixture(params=RELEASES)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Double:
    """The module of both flavours."""
    double = Double(request.param, {})
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, double)
    return double


def test_the_log_keeps_the_latest_error_but_not_the_missing_driver(trt: Double) -> None:
    log, severity = Log(), trt.ILogger.Severity
    logger = make_logger(trt, log)
    assert log.error == "it gave no reason."
    logger.log(severity.ERROR, "No kernel.\nSee the guide.")
    logger.log(severity.ERROR, "Cuda Runtime (cudaError 35: CUDA driver version is insufficient)")
    logger.log(severity.WARNING, "Layers:\nName: one")
    logger.log(severity.WARNING, "Something else")
    assert log.error == "No kernel."
    assert log.has_error("the guide")
    assert not log.has_error("driver")
    assert log.layers == "Layers:\nName: one"


def test_without_the_library_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for flavour, module, extra in (("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(EngineError, match=f"{flavour} cannot be imported") as caught:
            load_tensorrt(flavour)
        assert caught.value.hint == f"Install it with `pip install 'spectr[{extra}]'`."


def test_without_a_gpu_the_error_names_another_backend(trt: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_gpu(device: str) -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nMore.")

    monkeypatch.setattr(torch.cuda, "get_device_capability", no_gpu)
    with pytest.raises(EngineError, match=r"needs a GPU; PyTorch sees no 'cuda': Found no NVIDIA driver") as caught:
        machine_key("tensorrt-rtx", "cuda")
    assert "--backend onnxruntime --device cpu" in caught.value.hint


def test_the_key_of_a_machine_names_the_gpu_for_tensorrt_only(trt: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L4")
    assert machine_key("tensorrt-rtx", "cuda:1") == EngineKey("tensorrt-rtx", trt.__version__, ("8.9",))
    assert machine_key("tensorrt", "cuda") == EngineKey("tensorrt", trt.__version__, ("8.9",), "NVIDIA L4")


@pytest.mark.parametrize(
    ("error", "told"), [(RuntimeError(), "RuntimeError"), (OSError("\n no disk \nat line 1"), "no disk ")]
)
def test_the_first_line_of_an_error_is_told_or_else_its_type(error: Exception, told: str) -> None:
    assert first_line(error) == told
