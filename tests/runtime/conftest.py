"""A decoder over models whose laws are tables."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import TableEngine

from spectr_runtime import Bundle, Decoder, Manifest, ModelSpec
from spectr_runtime.bundle import ROLES, Limits, Role, Vocabulary
from spectr_runtime.bundle.layout import MANIFEST
from spectr_runtime.speculation.plan import PlanChoice

CAPACITY = 48


class LetterText:
    """A tokenizer without files: token 0 is the end, token n the n-th letter."""

    def __init__(self, folder: Path, vocabulary: int, date: datetime.date | None = None) -> None:
        self.vocabulary = vocabulary

    def encode(self, prompt: tuple[int, ...], most: int | None = None) -> tuple[int, ...]:
        return prompt

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + token - 1) for token in ids if token)

    def special_ids(self, texts: Sequence[str]) -> tuple[int, ...]:
        return tuple(4 for text in texts if text == "<four>")

    def piece(self, token: int) -> tuple[str, bytes]:
        text = self.decode([token])
        return text, text.encode()

    def stream(self) -> LetterText:
        return self

    def push(self, ids: Sequence[int]) -> str:
        return self.decode(ids)

    def rest(self) -> str:
        return ""

    def completion(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> str:
        return self.decode(ids)


def table_bundle(
    folder: Path, vocabulary: int, tokens_per_call: int, capacity: int, roles: Sequence[Role] = ROLES
) -> Bundle:
    spec = ModelSpec("table", 1, 1, 1, vocabulary, capacity)
    return Bundle(
        folder,
        Manifest(
            models=dict.fromkeys(roles, spec),
            vocabulary=Vocabulary(vocabulary, (0,)),
            limits=Limits(capacity, tokens_per_call),
            files={},
            versions={},
            parity={role: {} for role in roles},
        ),
    )


OpenDecoder = Callable[..., Decoder]


@pytest.fixture
def open_decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OpenDecoder:
    """Open a decoder over two table models; the draft's law is unrelated to the target's.

    Where sizes are given, engines are as compiled ones: of the sizes the smallest is opened that has the slots.
    """
    folder = tmp_path / "table.bundle"
    folder.mkdir()
    (folder / MANIFEST).write_text(str(folder))  # only its hash is asked for

    def open_(
        plan: PlanChoice,
        *,
        batch_size: int = 3,
        seed: int = 0,
        vocabulary: int = 5,
        tokens_per_call: int = 4,
        capacity: int = CAPACITY,
        prefix_tokens: int | None = None,
        engine: type[TableEngine] = TableEngine,
        device: str = "cpu",
        sizes: Sequence[int] = (),
        longest: int = 1,
        roles: Sequence[Role] = ROLES,
        replays: bool | None = None,
        call_tokens: int | None = None,
    ) -> Decoder:
        def open_engine(bundle: Bundle, role: str, *, rows: int, capacity: int, slots: int, **_: object) -> TableEngine:
            capacity = next((size for size in sizes if size >= slots), capacity)
            return engine({"draft": 1, "target": 2}[role], vocabulary=vocabulary, rows=rows, capacity=capacity)

        monkeypatch.setattr("spectr_runtime.speculation.pair.open_engine", open_engine)
        monkeypatch.setattr("spectr_runtime.decoder.Tokenizer", LetterText)
        return Decoder(
            table_bundle(folder, vocabulary, tokens_per_call, capacity, roles),
            plan=plan,
            batch_size=batch_size,
            seed=seed,
            device=device,
            prefix_tokens=prefix_tokens,
            longest=longest,
            replays=replays,
            call_tokens=call_tokens,
        )

    return open_
