"""A draft whose logits are narrower than the vocabulary that its target writes."""

# B rows of a call, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

import dataclasses

import torch

from spectr_runtime.bundle import ModelSpec, Vocabulary
from spectr_runtime.contract import Call, Engine, KVCache


class WidenedEngine:
    """An engine that gives the tokens beyond its model's logits no probability.

    Drafting stays lossless: the rules take any two laws, and what the draft never proposes comes from the target.

    Args:
        engine: The model's engine, with fewer logits than the vocabulary has tokens. Its cache is this engine's too.
        vocabulary: The vocabulary; the model is fed its substitute in place of a token that the model does not know.

    Attributes:
        spec: The model's sizes, its logits as wide as the vocabulary.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary) -> None:
        self.spec: ModelSpec = dataclasses.replace(engine.spec, vocabulary=vocabulary.size)
        self._engine = engine
        self._known = engine.spec.vocabulary
        self._substitute = vocabulary.substitute

    @property
    def cache(self) -> KVCache:
        """The cache of the model's engine."""
        return self._engine.cache

    def forward(self, call: Call) -> torch.Tensor:
        """Contract of ``Engine.forward``."""
        known_BT = call.input_ids_BT < self._known
        fed = dataclasses.replace(call, input_ids_BT=call.input_ids_BT.where(known_BT, self._substitute))
        logits_BMV = self._engine.forward(fed)
        return torch.nn.functional.pad(logits_BMV, (0, self.spec.vocabulary - self._known), value=-torch.inf)
