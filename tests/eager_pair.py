"""A pair of tiny checkpoints in the places of a bundle's models: no graphs, which the torch backend does not need."""

from __future__ import annotations

from pathlib import Path

from tiny_models import POSITIONS, VOCABULARY, byte_tokenizer, save_pair

from spectr_runtime import Bundle, Manifest, ModelSpec
from spectr_runtime.bundle import Limits, Vocabulary


def eager_bundle(folder: Path) -> Bundle:
    """Write the pair of ``save_pair`` and describe it."""
    save_pair(folder)
    byte_tokenizer().save_pretrained(folder / "tokenizer")
    manifest = Manifest(
        models={
            "target": ModelSpec("llama", 2, 2, 8, VOCABULARY + 7, POSITIONS),
            "draft": ModelSpec("llama", 1, 2, 8, VOCABULARY, POSITIONS),
        },
        vocabulary=Vocabulary(VOCABULARY, (VOCABULARY - 1,)),
        limits=Limits(POSITIONS, 16),
        files={},
        versions={},
        parity={"draft": {}, "target": {}},
    )
    return Bundle(folder, manifest)
