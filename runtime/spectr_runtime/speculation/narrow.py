"""A draft whose logits are for other tokens, or fewer, than the vocabulary that its target writes."""

# B rows of a call, M columns whose logits are wanted, N tokens that the draft scores, V vocabulary.
from __future__ import annotations

import dataclasses

import torch

from spectr_runtime.bundle import Bundle, ModelSpec, Vocabulary
from spectr_runtime.bundle.tokens import read_tokens
from spectr_runtime.contract import Call, Engine, KVCache, Output


def widened(engine: Engine, bundle: Bundle) -> Engine:
    """Return an engine for the draft of a bundle whose logits are those of the bundle's vocabulary, in its order.

    Raises:
        BundleError: The bundle does not say which tokens the draft's logits are for.
    """
    tokens_N, vocabulary = read_tokens(bundle), bundle.manifest.vocabulary
    if tokens_N is None and engine.spec.vocabulary >= vocabulary.size:
        return engine
    return WidenedEngine(engine, vocabulary, tokens_N)


class WidenedEngine:
    """An engine that gives the tokens that its model does not score no probability.

    Drafting stays lossless: the rules take any two laws, and what the draft never proposes comes from the target.

    Args:
        engine: The model's engine. Its cache is this engine's too.
        vocabulary: The vocabulary; a model of its own is fed its substitute in place of a token that it does not know.
        tokens_N: The token of the vocabulary that each logit of the model is for; int64. None for the first ones in
            order.

    Attributes:
        spec: The model's sizes, its logits at least as wide as the vocabulary.
    """

    def __init__(self, engine: Engine, vocabulary: Vocabulary, tokens_N: torch.Tensor | None = None) -> None:
        device = engine.cache.device
        known = torch.arange(engine.spec.vocabulary) if tokens_N is None else tokens_N
        width = max(vocabulary.size, int(known.max()) + 1)
        own_V = torch.full((width,), vocabulary.substitute)
        own_V[known] = torch.arange(len(known))
        self.spec: ModelSpec = dataclasses.replace(engine.spec, vocabulary=width)
        self._engine = engine
        self._tokens_N = known.to(device)
        self._own_V = None if engine.spec.head else own_V.to(device)

    @property
    def cache(self) -> KVCache:
        """The cache of the model's engine."""
        return self._engine.cache

    @property
    def capturable(self) -> bool:
        """Whether calls of the model's engine can be recorded as CUDA graphs."""
        return self._engine.capturable

    def forward(self, call: Call) -> torch.Tensor:
        """Contract of ``Engine.forward``."""
        return self._wide(self._engine.forward(self._fed(call)))

    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``."""
        logits_BMN, states_BTW = self._engine.run(self._fed(call))
        return Output(self._wide(logits_BMN), states_BTW)

    def _fed(self, call: Call) -> Call:
        return call if self._own_V is None else dataclasses.replace(call, input_ids_BT=self._own_V[call.input_ids_BT])

    def _wide(self, logits_BMN: torch.Tensor) -> torch.Tensor:
        logits_BMV = logits_BMN.new_full((*logits_BMN.shape[:-1], self.spec.vocabulary), -torch.inf)
        return logits_BMV.index_copy_(-1, self._tokens_N, logits_BMN)
