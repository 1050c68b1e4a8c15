"""A decoder and a scorer over a pair of table models, for tests that need rows with a known law and no files."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support import TableEngine

from spectr_runtime import Bundle, Completion, Decoder, Manifest, ModelSpec, Plan, Request
from spectr_runtime.backends import Backend
from spectr_runtime.bundle import ROLES, Limits, Role, Vocabulary
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.plan import PlanChoice

VOCABULARY, CAPACITY = 5, 48
PLAIN = Plan.plain()
SEEDS = {"draft": 1, "target": 2}


class NoText:
    """Prompts are token ids already, and nobody reads the text."""

    def __init__(self, folder: Path, vocabulary: int, date: datetime.date | None = None) -> None: ...

    def encode(self, prompt: tuple[int, ...], most: int | None = None) -> tuple[int, ...]:
        return prompt

    def decode(self, ids: Sequence[int]) -> str:
        return ""

    def special_ids(self, texts: Sequence[str]) -> tuple[int, ...]:
        return ()

    def completion(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        return ""

    def piece(self, token: int) -> tuple[str, bytes]:
        return "", b""


def table_bundle(tokens_per_call: int, roles: Sequence[Role] = ROLES) -> Bundle:
    """A bundle whose files nobody opens; token 0 is the end."""
    spec = ModelSpec("table", 1, 1, 1, VOCABULARY, CAPACITY)
    manifest = Manifest(
        models=dict.fromkeys(roles, spec),
        vocabulary=Vocabulary(VOCABULARY, (0,)),
        limits=Limits(CAPACITY, tokens_per_call),
        files={},
        versions={},
        parity={role: {} for role in roles},
    )
    return Bundle(Path("nowhere"), manifest)


def _patch(monkeypatch: pytest.MonkeyPatch, entrance: str, kind: type[TableEngine] = TableEngine) -> None:
    def open_engine(bundle: Bundle, role: str, *, device: str, rows: int, capacity: int, **_: object) -> TableEngine:
        return kind(SEEDS[role], vocabulary=VOCABULARY, rows=rows, capacity=capacity, device=device)

    monkeypatch.setattr("spectr_runtime.speculation.pair.open_engine", open_engine)
    monkeypatch.setattr(f"spectr_runtime.{entrance}.Tokenizer", NoText)


def table_scorer(
    monkeypatch: pytest.MonkeyPatch,
    *,
    batch_size: int = 4,
    tokens_per_call: int = 4,
    backend: Backend = "torch",
    plan: PlanChoice = PLAIN,
    roles: Sequence[Role] = ROLES,
) -> Scorer:
    """A scorer over the pair, or over its target alone."""
    _patch(monkeypatch, "scorer")
    bundle = table_bundle(tokens_per_call, roles)
    return Scorer(bundle, backend=backend, device="cpu", batch_size=batch_size, plan=plan)


def table_decoder(
    monkeypatch: pytest.MonkeyPatch,
    plan: PlanChoice,
    *,
    batch_size: int,
    seed: int = 0,
    engine: type[TableEngine] = TableEngine,
    **options: Any,
) -> Decoder:
    """A decoder over the pair; the options are those of ``Decoder``."""
    _patch(monkeypatch, "decoder", engine)
    return Decoder(table_bundle(4), plan=plan, backend="torch", batch_size=batch_size, seed=seed, **options)


def write(monkeypatch: pytest.MonkeyPatch, plan: Plan, requests: Sequence[Request], batch_size: int) -> list[Written]:
    """Decode requests; what was written, in their order."""
    decoder = table_decoder(monkeypatch, plan, batch_size=batch_size)
    outcomes = {one.id: one for one in decoder.generate(requests)}
    rows = []
    for request in requests:
        outcome = outcomes[request.id]
        assert isinstance(outcome, Completion)
        rows.append(Written(request, outcome.token_ids))
    return rows
