"""Any causal LM of transformers with the inputs and outputs of the engine contract.

No model is rewritten. The contract's attention and experts come in through transformers' registries, and the keys and
values through a cache object. A hook in front of the output embedding keeps only the columns whose logits are wanted,
so that whatever a model does to its logits afterwards still happens. Hooks in front of some layers take what a draft
that is a head reads of its target.

The same module runs eagerly and, under ``torch.export``, becomes standard ONNX.
"""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted, E hidden size, S slots of a row,
# Hk key/value heads, D head size, V vocabulary, F width of the features.
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectr_runtime.adapter.attention import ATTENTION, attend
from spectr_runtime.adapter.experts import EXPERTS, run_experts
from spectr_runtime.adapter.inline import ADAPTERS
from spectr_runtime.adapter.layer_cache import CallCache
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.weights import read_weights
from spectr_runtime.contract import DTYPES, OPSET
from spectr_runtime.errors import BundleError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ContractModel(nn.Module):
    """A transformers causal LM with the contract's inputs and outputs.

    Args:
        model: The causal LM; it keeps the contract's attention from then on.
        features: The layers whose inputs are given out beside the logits, as in ``Features.layers``.

    Raises:
        BundleError: The model does not let its attention be chosen.
    """

    def __init__(self, model: PreTrainedModel, features: Sequence[int] = ()) -> None:
        super().__init__()
        self.model = adapt(model)
        self.features = tuple(features)

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        position_ids_BT: torch.Tensor,
        attention_mask_B1TL: torch.Tensor,
        write_index_B: torch.Tensor,
        logit_index_BM: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, *tuple[torch.Tensor, ...], list[torch.Tensor]]:
        """Write the fed tokens' keys and values and score the wanted columns.

        Args:
            input_ids_BT: As in ``Call``, like the four that follow.
            position_ids_BT: Positions of the tokens.
            attention_mask_B1TL: Which slots a token sees.
            write_index_B: The first slot that is written in each row.
            logit_index_BM: Columns of T whose logits are wanted.
            past: Keys and values [B, Hk, S, D] in the order of ``past_names``; an eager call writes into them.

        Returns:
            Float32 logits [B, M, V]; where there are features, those of all fed tokens [B, T, F]; and the cache after
            the call in the order of ``past``.
        """
        cache = CallCache(list(past), write_index_B, attention_mask_B1TL.shape[-1])

        def gather_wanted(_head: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
            return gather(args[0], logit_index_BM)

        head: nn.Module = self.model.get_output_embeddings()  # type: ignore[no-untyped-call]
        with head.register_forward_pre_hook(gather_wanted), entering(self.model, self.features) as states:
            output = self.model(
                input_ids=input_ids_BT,
                position_ids=position_ids_BT,
                attention_mask=attention_mask_B1TL,
                past_key_values=cache,
                use_cache=True,
            )
        features = [torch.cat([states[layer] for layer in self.features], -1)] if self.features else []
        return output.logits.float(), *features, cache.parts


@contextlib.contextmanager
def entering(model: Any, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Yield a mapping that takes the hidden states that enter some layers while the block runs, by the layers' numbers.

    Args:
        model: A causal LM.
        layers: The layers; the number of all layers stands for what leaves the last.
    """
    states: dict[int, torch.Tensor] = {}
    every = decoder_layers(model) if layers else nn.ModuleList()

    def before(number: int) -> Callable[..., None]:
        def take(_layer: nn.Module, args: tuple[Any, ...], options: dict[str, Any]) -> None:
            states[number] = args[0] if args else options["hidden_states"]

        return take

    def after(_layer: nn.Module, _args: Any, output: Any) -> None:
        states[len(every)] = output[0] if isinstance(output, tuple) else output

    with contextlib.ExitStack() as hooks:
        for number in layers:
            if number < len(every):
                hook = every[number].register_forward_pre_hook(before(number), with_kwargs=True)
            else:
                hook = every[-1].register_forward_hook(after)
            hooks.callback(hook.remove)
        yield states


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the layers of a causal LM.

    Raises:
        BundleError: The model does not keep them in one list.
    """
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    found = next((part for part in lists if len(part) == model.config.num_hidden_layers), None)
    if found is None:
        raise BundleError(
            f"{type(model).__name__} does not keep its layers in one list, so no head can read what enters them.",
            hint="Use a model of its own as draft.",
        )
    return found


def gather(hidden_BTE: torch.Tensor, index_BM: torch.Tensor) -> torch.Tensor:
    """Return the wanted columns of T; [B, M, E]."""
    if torch.compiler.is_exporting():
        inputs, shape = (hidden_BTE, index_BM[..., None]), (*index_BM.shape, hidden_BTE.shape[-1])
        return torch.onnx.ops.symbolic(
            "GatherND", inputs, {"batch_dims": 1}, dtype=hidden_BTE.dtype, shape=shape, version=OPSET
        )
    return hidden_BTE.gather(1, index_BM[..., None].expand(-1, -1, hidden_BTE.shape[-1]))


def load_contract_model(
    folder: Path,
    *,
    dtype: str,
    device: torch.device,
    read: Callable[[Path], dict[str, torch.Tensor]] = read_weights,
    features: Sequence[int] = (),
) -> ContractModel:
    """Load a model folder of a bundle from ``config.json`` and ``model.safetensors``, without the network.

    Args:
        folder: The folder.
        dtype: Type to compute in.
        device: Device of the model.
        read: Reads the weights from their file.
        features: As for ``ContractModel``.

    Raises:
        BundleError: transformers cannot load the folder, weights are missing, or the model cannot take the contract's
            attention.
    """
    from safetensors import SafetensorError
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        loaded: Any = family.from_pretrained(
            None, config=config, state_dict=read(folder / WEIGHTS), dtype=DTYPES[dtype], output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(
            f"transformers cannot load the model in {folder}: {first_line(error)}", hint="Build it again."
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        # transformers would go on with random weights instead.
        raise BundleError(f"{folder} lacks the weights {sorted(report['missing_keys'])}.", hint="Build it again.")
    for parameter in model.parameters():
        # Some architectures load norms in float32 whatever type is asked for.
        parameter.data = parameter.data.to(DTYPES[dtype])
    return ContractModel(model, features).to(device).eval()


def adapt(model: PreTrainedModel) -> PreTrainedModel:
    """Give a model the contract's attention and experts, and rotary frequencies that stay the same in any text."""
    from transformers import AttentionInterface
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    # This only adds names to the registries; models that do not ask for these names are not affected.
    AttentionInterface.register(ATTENTION, attend)
    ALL_EXPERTS_FUNCTIONS.register(EXPERTS, run_experts)
    _pin_rotary(model)
    if model.config.model_type in ADAPTERS:
        ADAPTERS[model.config.model_type](model)
        return model
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise BundleError(
            f"{type(model).__name__} does not let its attention be chosen, so it cannot be brought into the contract.",
            hint="Use a model whose transformers class supports AttentionInterface.",
        )
    if model._can_set_experts_implementation():
        model.set_experts_implementation(EXPERTS)
    return model


def _pin_rotary(model: Any) -> None:
    """Pin rotary frequencies that would change with the length of the text.

    A key in the cache was turned with the frequencies of its time and cannot be turned again. The frequencies stay at
    their values for short texts, and texts of the lengths that would change them are not served.
    """
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if isinstance(kind, dict):
            module.rope_type = dict.fromkeys(kind, "default")
        elif isinstance(kind, str):
            module.rope_type = "default"
