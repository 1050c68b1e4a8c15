"""A GPU without a GPU: engines and contexts for a double of TensorRT, which run models in PyTorch at the addresses."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from tensorrt_double import RELEASES, Behaviour, Double

from spectr_runtime import Bundle, ModelSpec
from spectr_runtime.bundle import Role
from spectr_runtime.bundle.compiled import CompiledEngine, Dimension, EngineKey, Profile
from spectr_runtime.bundle.layout import ENGINES
from spectr_runtime.contract import CALL_INPUTS, HEAD_INPUTS, STATES, past_names, present_names
from spectr_runtime.engines import tensorrt_library
from spectr_runtime.engines.tensorrt_library import MODULES
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.planning import compiled as planning_compiled

STREAM = 7
WORKSPACE = 1000  # bytes that an engine computes in
MACHINE = EngineKey("tensorrt-rtx", RELEASES[-1], ("8.9",))
TYPES = {"attention_mask": torch.bool, "own": torch.bool} | dict.fromkeys(
    ("input_ids", "position_ids", "write_index", "logit_index"), torch.int64
)


class Plan(NamedTuple):
    """What an engine computes, and what its record says of it."""

    model: Any
    spec: ModelSpec
    compiled: CompiledEngine


def at(address: int, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The tensor at an address."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).view(*shape)


class Context:
    """An execution context that checks what it was given against the contract when it runs the model.

    Attributes:
        profile: Index of its profile.
        memory: Address and size of the memory that it computes in.
        shapes: Shapes of its inputs.
        addresses: Addresses of inputs and outputs.
        calls: What it ran: rows and tokens.
        ready: Whether it ran with these shapes, and so can be captured.
        captured: Whether a graph has it, so that nothing of it may change.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.profile = -1
        self.memory = (0, 0)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.calls: list[tuple[int, ...]] = []
        self.ready = self.captured = False

    def choose(self, profile: int, stream: int) -> bool:
        assert stream == STREAM
        self.profile = profile
        return True

    def use(self, memory: int, size: int) -> None:
        assert not self.captured
        self.memory = (memory, size)

    def reshape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.captured
        self.shapes[name] = shape
        self.ready = False
        return True

    def move(self, name: str, memory: int) -> bool:
        assert not self.captured
        self.addresses[name] = memory
        return True

    def run(self, stream: int, *, capturing: bool) -> bool:
        assert stream == STREAM
        assert self.ready if capturing else not self.captured
        self.ready, self.captured = True, capturing
        memory, size = self.memory
        assert memory
        assert size == WORKSPACE
        rows, tokens = self.shapes["input_ids"]
        model, spec, compiled = self.plan
        assert tokens <= compiled.profiles[self.profile].spans["T"].most
        past = [at(self.addresses[name], self.shapes[name], torch.float32) for name in past_names(spec.layers)]
        assert all(tuple(part.shape) == (rows, spec.kv_heads, compiled.capacity, spec.head_size) for part in past)
        assert [part.data_ptr() for part in past] == [self.addresses[name] for name in present_names(spec.layers)]
        inputs = [at(self.addresses[name], self.shapes[name], dtype) for name, dtype in self._inputs()]
        *outputs, _ = model(*inputs, past)
        names = ("logits", STATES)[: len(outputs)]
        for name, output in zip(names, outputs, strict=True):
            at(self.addresses[name], output.shape, torch.float32).copy_(output)
        self.calls.append((rows, tokens))
        return True

    def _inputs(self) -> list[tuple[str, torch.dtype]]:
        names = [*CALL_INPUTS, *(HEAD_INPUTS if self.plan.spec.head else ())]
        return [(name, TYPES.get(name, torch.float32)) for name in names]


class Gpu:
    """The behaviour of TensorRT's engine and contexts, for a double of its module.

    Args:
        plans: The engines by the bytes of their files.

    Attributes:
        refusal: The reason why an engine cannot be opened; empty if it can.
        capturing: Whether the stream is being captured. What is captured is run all the same.
        contexts: What was told to each context, in the order in which they were made.
    """

    def __init__(self, plans: Mapping[bytes, Plan]) -> None:
        self.refusal = ""
        self.capturing = False
        self.trt: Any = None
        self._plans = plans
        self._engines: list[tuple[Any, Plan]] = []
        self._contexts: list[tuple[Any, Context]] = []
        self._logger: Any = None

    @property
    def contexts(self) -> list[Context]:
        return [told for _, told in self._contexts]

    def behaviours(self) -> dict[str, Behaviour]:
        return {
            "Runtime.__init__": self._keep,
            "Runtime.deserialize_cuda_engine": self._open,
            "ICudaEngine.create_execution_context": self._make,
            "ICudaEngine.device_memory_size_v2": lambda engine: WORKSPACE,
            "ICudaEngine.get_weight_streaming_automatic_budget": lambda engine: 123,
            "IExecutionContext.set_optimization_profile_async": lambda context, profile_index, stream_handle: (
                self._told(context).choose(profile_index, stream_handle)
            ),
            "IExecutionContext.set_device_memory": lambda context, memory, size: self._told(context).use(memory, size),
            "IExecutionContext.set_input_shape": lambda context, name, shape: self._told(context).reshape(name, shape),
            "IExecutionContext.set_tensor_address": lambda context, name, memory: self._told(context).move(
                name, memory
            ),
            "IExecutionContext.execute_async_v3": lambda context, stream_handle: self._told(context).run(
                stream_handle, capturing=self.capturing
            ),
        }

    def _keep(self, runtime: Any, logger: Any) -> None:
        self._logger = logger

    def _open(self, runtime: Any, serialized_engine: bytes) -> Any:
        if not self.refusal:
            self._engines.append((self.trt.new("ICudaEngine"), self._plans[serialized_engine]))
            return self._engines[-1][0]
        self._logger.log(self.trt.ILogger.Severity.ERROR, self.refusal)
        return None

    def _make(self, engine: Any, strategy: Any) -> Any:
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        plan = next(plan for made, plan in self._engines if made is engine)
        self._contexts.append((self.trt.new("IExecutionContext"), Context(plan)))
        return self._contexts[-1][0]

    def _told(self, context: Any) -> Context:
        return next(told for made, told in self._contexts if made is context)


def put_in_place(gpu: Gpu, release: str, monkeypatch: pytest.MonkeyPatch) -> Double:
    """Replace the modules of both flavours and PyTorch's CUDA stream; the memory is the CPU's."""
    double = gpu.trt = Double(release, gpu.behaviours())
    stream = SimpleNamespace(cuda_stream=STREAM, synchronize=lambda: None)
    for module in MODULES.values():
        monkeypatch.setitem(sys.modules, module, double)
    monkeypatch.setattr(torch.cuda, "device", lambda place: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place=None: stream)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: gpu.capturing)
    return double


def run_engines(plans: Mapping[bytes, Plan], monkeypatch: pytest.MonkeyPatch) -> Double:
    """Make this machine, with every device, the one that the engines of ``put_engines`` are for."""
    for module in (tensorrt_library, planning_compiled):
        monkeypatch.setattr(module, "machine_key", lambda flavour, device: MACHINE)
    return put_in_place(Gpu(plans), MACHINE.version, monkeypatch)


def put_engines(bundle: Bundle, sizes: Sequence[int], *, rows: int, tree_tokens: int) -> dict[bytes, Plan]:
    """Write engines of so many slots, with their records, for both models of a bundle; the engines by their bytes."""
    plans = {}
    for role in bundle.manifest.roles:
        model = TorchEngine(bundle.model(role), bundle.manifest.models[role], rows=1, capacity=1)._model
        for slots in sizes:
            compiled = _put_engine(bundle, role, slots, rows, tree_tokens)
            plans[_bytes(role, slots)] = Plan(model, bundle.manifest.models[role], compiled)
    return plans


def _put_engine(bundle: Bundle, role: Role, slots: int, rows: int, tree_tokens: int) -> CompiledEngine:
    def up_to(most: int) -> Dimension:
        return Dimension(1, most, most)

    sizes = {"B": up_to(rows), "L": up_to(slots)}
    chunk = min(bundle.manifest.limits.tokens_per_call, slots)
    profiles = (
        Profile("decode", {**sizes, "T": up_to(tree_tokens), "M": up_to(tree_tokens)}),
        Profile("prefill", {**sizes, "T": up_to(chunk), "M": up_to(1)}),
    )
    digest = hashlib.sha256(_bytes(role, slots)).hexdigest()
    compiled = CompiledEngine(
        MACHINE, bundle.model_sha256(role), digest, slots, profiles, "fused", weight_streaming=False
    )
    folder = bundle.model(role) / ENGINES
    folder.mkdir(exist_ok=True)
    (folder / f"{compiled.name}.engine").write_bytes(_bytes(role, slots))
    (folder / f"{compiled.name}.json").write_text(json.dumps(compiled.to_json()))
    return compiled


def _bytes(role: Role, slots: int) -> bytes:
    return f"{role}, {slots} slots".encode()
