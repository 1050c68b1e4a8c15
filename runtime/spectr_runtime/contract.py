"""The engine contract around any transformers causal LM: a fixed-capacity cache, an explicit mask, wanted logits only.

No model is rewritten. transformers' registry of attention functions gives the attention, a cache object gives the keys
and values, and a hook in front of the output embedding gathers the wanted columns, so that whatever a model does to its
logits afterwards still happens. The same module runs eagerly and, under ``torch.export``, becomes standard ONNX.
"""

# B rows, T tokens fed, L attention length, M wanted columns, S slots, Hq/Hk query/key heads, D head size, V vocabulary.
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectr_runtime.cache import KVCache
from spectr_runtime.engine import Call
from spectr_runtime.errors import BundleError, EngineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPSET = 24
ATTENTION = "spectr_contract"
CALL_INPUTS = ("input_ids", "position_ids", "attention_mask", "write_index", "logit_index")
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What a model may ask of its attention that the contract's one operator does not do.
UNSUPPORTED = {"softcap": "soft-capped attention", "s_aux": "attention sinks", "position_bias": "a position bias"}


def past_names(layers: int) -> list[str]:
    """Names of the cache inputs in order: keys, then values, layer by layer."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Names of the cache outputs in the order of ``past_names``."""
    return [f"present.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def check_call(call: Call, cache: KVCache) -> None:
    """Check a call at the engine's boundary: its shapes and types agree and what it writes and reads is in the cache.

    Args:
        call: The call.
        cache: The cache of the engine that is to run it.

    Raises:
        EngineError: Something does not fit; nothing has been written.
    """
    rows, tokens = call.input_ids_BT.shape
    length, wanted = call.attention_mask_B1TL.shape[-1], call.logit_index_BM.shape[-1]
    expected = (
        ("position_ids", call.position_ids_BT, (rows, tokens), torch.int64),
        ("attention_mask", call.attention_mask_B1TL, (rows, 1, tokens, length), torch.bool),
        ("write_index", call.write_index_B, (rows,), torch.int64),
        ("logit_index", call.logit_index_BM, (rows, wanted), torch.int64),
        ("input_ids", call.input_ids_BT, (rows, tokens), torch.int64),
    )
    for name, tensor, shape, dtype in expected:
        if tensor.shape != shape or tensor.dtype != dtype:
            raise EngineError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}; this call needs {shape} {dtype}.")
    if min(rows, tokens, length, wanted) < 1 or call.first_row < 0 or call.first_row + rows > cache.rows:
        last = call.first_row + rows - 1
        raise EngineError(
            f"The call feeds {tokens} tokens to rows {call.first_row}..{last}; the cache has {cache.rows} rows."
        )
    first, last = (int(bound) for bound in torch.aminmax(call.write_index_B))
    if first < 0 or last + tokens > cache.capacity or length > cache.capacity:
        raise EngineError(
            f"The call writes slots {first}..{last + tokens - 1} and reads the first {length}; "
            f"a row has {cache.capacity}.",
            hint="Feed fewer tokens, or open the engine with a larger capacity.",
        )


class ContractModel(nn.Module):
    """A transformers causal LM with the contract's inputs and outputs.

    Args:
        model: The causal LM; its attention is replaced by the contract's for good.

    Raises:
        BundleError: The model does not let its attention be chosen.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = _with_contract_attention(model)

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        position_ids_BT: torch.Tensor,
        attention_mask_B1TL: torch.Tensor,
        write_index_B: torch.Tensor,
        logit_index_BM: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Write the fed tokens' keys and values and score the wanted columns.

        Args:
            input_ids_BT: Tokens fed; int64.
            position_ids_BT: Their positions in the text; int64.
            attention_mask_B1TL: True where a token sees a slot.
            write_index_B: First slot written per row; int64.
            logit_index_BM: Columns of T whose logits are wanted; int64.
            past: Keys and values [B, Hk, S, D] in the order of ``past_names``; written in place when run eagerly.

        Returns:
            Float32 logits [B, M, V], and the cache after the call in the order of ``past``.
        """
        cache = _Cache(list(past), write_index_B, attention_mask_B1TL.shape[-1])

        def gather_wanted(_head: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
            (hidden_BTE,) = args
            index_BME = logit_index_BM[:, :, None].expand(-1, -1, hidden_BTE.shape[-1])
            return hidden_BTE.gather(1, index_BME)

        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        with head.register_forward_pre_hook(gather_wanted):
            output = self.model(
                input_ids=input_ids_BT,
                position_ids=position_ids_BT,
                attention_mask=attention_mask_B1TL,
                past_key_values=cache,
                use_cache=True,
            )
        return output.logits.float(), cache.parts


def load_contract_model(folder: Path, *, dtype: str, device: torch.device) -> ContractModel:
    """Load a model folder of a bundle: ``config.json`` and ``model.safetensors``, nothing from the network.

    Raises:
        BundleError: transformers cannot load the folder, weights are missing, or the model cannot take the contract's
            attention.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"transformers cannot load the model in {folder}: {reason}", hint="Build it again."
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        # transformers would go on with random ones.
        raise BundleError(f"{folder} lacks the weights {sorted(report['missing_keys'])}.", hint="Build it again.")
    return ContractModel(model).to(device).eval()


@dataclasses.dataclass(slots=True)
class _Cache:
    """The cache as transformers' models call it: they write whole layers and see the first ``length`` slots."""

    parts: list[torch.Tensor]
    write_index_B: torch.Tensor
    length: int
    slots_BT: torch.Tensor | None = None

    def update(
        self, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        places = (2 * layer, 2 * layer + 1)
        for place, new_BHTD in zip(places, (key_BHTD, value_BHTD), strict=True):
            self.parts[place] = self._scatter(self.parts[place], new_BHTD)
        key_BHLD, value_BHLD = (self.parts[place][:, :, : self.length] for place in places)
        return key_BHLD, value_BHLD

    def get_seq_length(self, *_args: Any) -> int:
        """Zero: positions and mask are the caller's, so no model needs to derive them from a length."""
        return 0

    def _scatter(self, past_BHSD: torch.Tensor, new_BHTD: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            inputs = (past_BHSD, new_BHTD, self.write_index_B)
            return torch.onnx.ops.symbolic(
                "TensorScatter", inputs, {"axis": -2}, dtype=past_BHSD.dtype, shape=past_BHSD.shape, version=OPSET
            )
        rows, _, tokens, _ = new_BHTD.shape
        if self.slots_BT is None:  # the same for every layer
            self.slots_BT = self.write_index_B[:, None] + torch.arange(tokens, device=new_BHTD.device)
        rows_B1 = torch.arange(rows, device=new_BHTD.device)[:, None]
        past_BHSD[rows_B1, :, self.slots_BT] = new_BHTD.transpose(1, 2)
        return past_BHSD


def _attend(
    _module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The contract's attention in the form that transformers calls; output [B, T, Hq, D]."""
    asked = [what for name, what in UNSUPPORTED.items() if options.get(name) is not None]
    if asked:
        raise BundleError(
            f"The model uses {asked[0]}, which the engine contract does not have.", hint="Use another model."
        )
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    if torch.compiler.is_exporting():
        inputs = (query_BHTD, key_BHLD, value_BHLD, attention_mask)
        shape = (*query_BHTD.shape[:-1], value_BHLD.shape[-1])
        output_BHTD = torch.onnx.ops.symbolic(
            "Attention", inputs, {"scale": scale}, dtype=query_BHTD.dtype, shape=shape, version=OPSET
        )
    else:
        output_BHTD = nn.functional.scaled_dot_product_attention(
            query_BHTD, key_BHLD, value_BHLD, attn_mask=attention_mask, scale=scale, enable_gqa=True
        )
    return output_BHTD.transpose(1, 2).contiguous(), None


def _with_contract_attention(model: PreTrainedModel) -> PreTrainedModel:
    from transformers import AttentionInterface

    # Adds a name to transformers' registry; models that do not ask for it are not affected.
    AttentionInterface.register(ATTENTION, _attend)
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise BundleError(
            f"{type(model).__name__} does not let its attention be chosen, so it cannot be brought into the contract.",
            hint="Use a model whose transformers class supports AttentionInterface.",
        )
    return model
