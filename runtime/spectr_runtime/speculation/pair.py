"""The two models of a bundle with their caches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import aligned
from spectr_runtime.engines import open_engine
from spectr_runtime.rows.scheduler import Scheduler
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.prefill import prefill


class Pair:
    """The engines that some plans need.

    ONNX Runtime has the cores to itself: with it, PyTorch is set to one thread, since two pools that wait for each
    other's cores cost more than the second thread brings to what is done between the passes.

    Args:
        bundle: The models.
        plans: Plans that will be used; the draft is opened if one of them drafts.
        backend: Which engines run the models.
        device: Where they run, as torch names it.
        rows: Rows of the caches.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: The backend cannot run the bundle here.
    """

    def __init__(self, bundle: Bundle, plans: Sequence[Plan], *, backend: Backend, device: str, rows: int) -> None:
        if backend == "onnxruntime":
            torch.set_num_threads(1)
        limits = bundle.manifest.limits
        slots = aligned(limits.capacity + max(plan.tree.size for plan in plans))
        self._chunk = limits.tokens_per_call

        def engine(role: Role) -> Engine:
            return open_engine(bundle, role, backend=backend, device=device, rows=rows, capacity=slots)

        self.target = engine("target")
        self.draft = engine("draft") if any(plan.drafts for plan in plans) else None
        self.device = torch.device(device)

    def catch_up(self, plan: Plan, scheduler: Scheduler) -> None:
        """Read what the caches lack of the rows' texts; the last tokens are fed by the round itself."""
        self._catch_up("target", self.target, 1, scheduler)
        if plan.drafts and self.draft is not None:
            self._catch_up("draft", self.draft, 2, scheduler)

    def _catch_up(self, role: Role, engine: Engine, left: int, scheduler: Scheduler) -> None:
        for first_row, rows in scheduler.runs(lambda row: row.cached[role] < row.length - left):
            texts, cached = [row.tokens for row in rows], [row.cached[role] for row in rows]
            prefill(engine, texts, cached, first_row, self._chunk, self.device)
            for row in rows:
                row.cached[role] = row.length - 1

    def clear(self, place: int) -> None:
        """Clear a row of both caches."""
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.clear(place)
