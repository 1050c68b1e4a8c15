"""transformers: ``plain``, and ``assisted``, its speculation with a draft model, as both come."""

# B rows, T tokens, V vocabulary.
from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from worker import Setup, Unsupported


class Transformers:
    """A target, and its assistant or None."""

    def __init__(self, model: Any, assistant: Any) -> None:
        self._model, self._assistant = model, assistant

    @torch.inference_mode()
    def law(self, ids: list[int]) -> list[float]:
        """Read the text in one call."""
        ids_1T = torch.tensor([ids])
        logprobs_TV = self._model(input_ids=ids_1T).logits[0, :-1].float().log_softmax(-1)
        return [float(value) for value in logprobs_TV.gather(1, ids_1T[0, 1:, None])[:, 0]]

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Sample from the whole law."""
        torch.random.manual_seed(seed)
        ids_BT = torch.tensor(prompts)
        law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
        length = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        written_BT = self._model.generate(
            ids_BT, attention_mask=torch.ones_like(ids_BT), assistant_model=self._assistant, **law, **length
        )
        return [row[len(prompt) :] for row, prompt in zip(written_BT.tolist(), prompts, strict=True)]


def open_tool(setup: Setup) -> Transformers:
    """Open the models in float32."""
    if setup.precision != "fp32":
        raise Unsupported("only float32 is measured: its quantised models are made for GPUs")
    models = [
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        for folder in (setup.target, setup.draft if setup.plan == "assisted" else None)
        if folder is not None
    ]
    if setup.plan == "assisted" and setup.draft in (None, setup.target):
        raise Unsupported("there is no draft in float32 that is smaller than the target")
    return Transformers(models[0], models[1] if len(models) > 1 else None)
