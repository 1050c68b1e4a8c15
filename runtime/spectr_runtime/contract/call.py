"""The inputs of a call, their names in an ONNX graph, and the check of a call before an engine runs it."""

# B rows of the call, T tokens fed to each, L attention length, M columns of T whose logits are wanted, F width of the
# target's features, H width of a head's state.
from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from spectr_runtime.contract.cache import KVCache
from spectr_runtime.errors import EngineError

OPSET = 24  # the first version of ONNX's operators with TensorScatter, which writes to the cache
CALL_INPUTS = ("input_ids", "position_ids", "attention_mask", "write_index", "logit_index")
HEAD_INPUTS = ("features", "hidden", "own")  # which follow them in the graph of a head
STATES = "states"  # the output that follows the logits in the graph of a model that gives out hidden states
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, slots=True)
class HeadInputs:
    """What a call to a head has beside tokens: for each fed token, a state of the token before it in the text.

    A head of EAGLE-3 (Li et al. 2025, arXiv 2503.01840) guesses what follows a token ``x[i+1]`` from that token and a
    state of ``x[i]``, so its slot ``i`` holds this pair. Where the target has read ``x[i]``, the state is what the head
    makes of the target's features; beyond that, in a draft, it is the head's own state of the pair before.

    Attributes:
        features_BTF: The target's features of the token before; in the type of the head. Where ``own_BT`` is true they
            are not used, but must be finite.
        hidden_BTH: The head's own state of the token before, as ``Output.states_BTW`` gave it; in the type of the head.
            Where ``own_BT`` is false it is not used, but must be finite.
        own_BT: Whether the head's own state is used, and not the target's features; bool.
    """

    features_BTF: torch.Tensor
    hidden_BTH: torch.Tensor
    own_BT: torch.Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """The inputs of one pass over the rows ``first_row .. first_row + B - 1`` of the cache.

    Attributes:
        input_ids_BT: The tokens that are fed; int64.
        position_ids_BT: Their positions in the text; int64. A token's position is not its slot: the nodes of one level
            of a draft tree share a position.
        attention_mask_B1TL: True where a fed token sees a slot; slots L and beyond are neither read nor written. The
            slots that a token sees must hold, in slot order, the text that ends in it, one slot per position. Sliding
            windows and linear biases rely on that.
        write_index_B: The first slot that is written in each row; the tokens go to the slots
            ``write_index .. write_index + T - 1``; int64.
        logit_index_BM: Columns of T whose logits are wanted; int64.
        first_row: Index of the call's first row in the cache.
        head: What is fed beside the tokens to a draft that is a head on its target; None for every other model.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    attention_mask_B1TL: torch.Tensor
    write_index_B: torch.Tensor
    logit_index_BM: torch.Tensor
    first_row: int = 0
    head: HeadInputs | None = None


def past_names(layers: int) -> list[str]:
    """Return the names of a graph's cache inputs in order: layer by layer, keys, then values."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Return the names of a graph's cache outputs, in the order of ``past_names``."""
    return [f"present.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def check_call(call: Call, cache: KVCache) -> None:
    """Check that a call's shapes and types agree, and that the slots it writes and reads are in the cache.

    Which slots are written is checked where the host knows it, for calls whose tensors are on the CPU.

    Args:
        call: The call.
        cache: The cache of the engine that is to run it.

    Raises:
        EngineError: Something does not fit.
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
    first, last = 0, length - tokens
    if call.write_index_B.device.type == "cpu":  # a GPU would have to be waited for
        first, last = (int(bound) for bound in torch.aminmax(call.write_index_B))
    if first < 0 or last + tokens > length or length > cache.capacity:
        raise EngineError(
            f"The call writes slots {first}..{last + tokens - 1} and reads the first {length}; "
            f"a row has {cache.capacity}.",
            hint="Feed fewer tokens, or open the engine with a larger capacity.",
        )
