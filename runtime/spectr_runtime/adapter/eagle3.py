"""A head of EAGLE-3 (Li et al. 2025, arXiv 2503.01840) with the inputs and outputs of the engine contract.

The head is one decoder layer of a Llama or Qwen3 model, between the target's token embeddings and an output layer of
its own. Its queries, keys and values are computed from two vectors side by side: the embedding of a token and a hidden
state of the token before it. That state is either made of the target's features or is what the head's own layer gave
out for the pair before. Checkpoints differ in where they normalise, as ``speculators`` names it in their
configuration; ``Settings`` describes it.
"""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted, E hidden size, F width of the target's
# features, N tokens that the head scores, S slots of a row, Hk key/value heads, D head size.
from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectr_runtime.adapter.layer_cache import CallCache
from spectr_runtime.adapter.model import adapt, gather
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.weights import read_weights
from spectr_runtime.contract import DTYPES
from spectr_runtime.errors import BundleError, first_line

SETTINGS = "eagle3"  # the field of config.json in a bundle that holds the settings


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What distinguishes a head from the layer that it is made of.

    Attributes:
        logits: Number of tokens that it scores.
        layers: The target's layers whose inputs it reads, as in ``Features.layers``.
        features: Width of the inputs of all of these layers.
        norm_before_residual: Whether the layer adds its attention to the normalised state, and not to the state itself.
        norm_before_fc: Whether the features are normalised together.
        fc_norm: Whether the features are normalised layer by layer.
        norm_output: Whether the state that is fed back is normalised as for the logits.
    """

    logits: int
    layers: tuple[int, ...]
    features: int
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_output: bool = False

    @staticmethod
    def of(config: Any) -> Settings:
        """Read the settings that ``to_config`` wrote.

        Raises:
            BundleError: There are none, or they are malformed.
        """
        try:
            value = dict(getattr(config, SETTINGS))
            return Settings(**{**value, "layers": tuple(value["layers"])})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BundleError(f"config.json does not describe a head: {error}.", hint="Build it again.") from error

    def to_config(self, config: Any) -> None:
        """Write the settings into a configuration of transformers."""
        setattr(config, SETTINGS, dataclasses.asdict(self))


class Eagle3Head(nn.Module):
    """A head with the contract's inputs and outputs.

    Args:
        config: transformers' configuration of the layer, with the settings in it. The weights of the embeddings and of
            the output layer have no memory yet.

    Attributes:
        model: transformers' model of one layer, with the parts of the head in it. The weights have the names that they
            have in ``speculators``.

    Raises:
        BundleError: The settings are malformed.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.settings = Settings.of(config)
        self.model: Any = adapt(_make(config, self.settings))

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        position_ids_BT: torch.Tensor,
        attention_mask_B1TL: torch.Tensor,
        write_index_B: torch.Tensor,
        logit_index_BM: torch.Tensor,
        features_BTF: torch.Tensor,
        hidden_BTE: torch.Tensor,
        own_BT: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Write the fed tokens' keys and values and score the wanted columns.

        Args:
            input_ids_BT: As in ``Call``, like the four that follow.
            position_ids_BT: Positions of the tokens.
            attention_mask_B1TL: Which slots a token sees.
            write_index_B: The first slot that is written in each row.
            logit_index_BM: Columns of T whose logits are wanted.
            features_BTF: As in ``HeadInputs``, like the two that follow.
            hidden_BTE: The head's own states.
            own_BT: Whether these are used.
            past: Keys and values [B, Hk, S, D] in the order of ``past_names``; an eager call writes into them.

        Returns:
            Float32 logits [B, M, N], the states of all fed tokens [B, T, E], and the cache after the call.
        """
        cache = CallCache(list(past), write_index_B, attention_mask_B1TL.shape[-1])
        before_BTE = torch.where(own_BT[..., None], hidden_BTE, self.read(features_BTF))
        logits_BMN, state_BTE = self.score(
            input_ids_BT,
            before_BTE,
            position_ids_BT,
            logit_index_BM,
            attention_mask=attention_mask_B1TL,
            past_key_values=cache,
        )
        return logits_BMN.float(), state_BTE, cache.parts

    def read(self, features_BTF: torch.Tensor) -> torch.Tensor:
        """Return what the head makes of the target's features; [B, T, E]."""
        if self.settings.norm_before_fc:
            features_BTF = self.model.input_norm(features_BTF)
        if self.settings.fc_norm:
            parts = features_BTF.chunk(len(self.model.fc_norm), -1)
            features_BTF = torch.cat([norm(part) for norm, part in zip(self.model.fc_norm, parts, strict=True)], -1)
        state_BTE: torch.Tensor = self.model.fc(features_BTF)
        return state_BTE

    def score(
        self,
        input_ids_BT: torch.Tensor,
        before_BTE: torch.Tensor,
        position_ids_BT: torch.Tensor,
        logit_index_BM: torch.Tensor | None = None,
        **attention: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score what follows pairs of a token and a state of the token before it.

        Args:
            input_ids_BT: The tokens; int64.
            before_BTE: The states.
            position_ids_BT: Positions of the tokens; int64.
            logit_index_BM: Columns of T whose logits are wanted; None for all.
            attention: Mask and cache, as transformers' attention takes them.

        Returns:
            Logits [B, M, N], and the state of every pair [B, T, E].
        """
        state_BTE = self._compute(input_ids_BT, before_BTE, position_ids_BT, attention)
        normed_BTE = self.model.norm(state_BTE)
        wanted_BME = normed_BTE if logit_index_BM is None else gather(normed_BTE, logit_index_BM)
        return self.model.lm_head(wanted_BME), normed_BTE if self.settings.norm_output else state_BTE

    def _compute(
        self,
        input_ids_BT: torch.Tensor,
        before_BTE: torch.Tensor,
        position_ids_BT: torch.Tensor,
        attention: Mapping[str, Any],
    ) -> torch.Tensor:
        """Return what the layer gives out; [B, T, E]."""
        layer = self.model.layers[0]
        embedded_BTE, hidden_BTE = self.model.embed_tokens(input_ids_BT), layer.hidden_norm(before_BTE)
        attended_BTE, _weights = layer.self_attn(
            hidden_states=torch.cat([layer.input_layernorm(embedded_BTE), hidden_BTE], -1),
            position_embeddings=self.model.rotary_emb(before_BTE, position_ids_BT),
            **attention,
        )
        residual_BTE = (hidden_BTE if self.settings.norm_before_residual else before_BTE) + attended_BTE
        state_BTE: torch.Tensor = residual_BTE + layer.mlp(layer.post_attention_layernorm(residual_BTE))
        return state_BTE


def load_head(
    folder: Path,
    *,
    dtype: str,
    device: torch.device,
    read: Callable[[Path], dict[str, torch.Tensor]] = read_weights,
) -> Eagle3Head:
    """Load the folder of a head of a bundle; ``load_contract_model`` describes the arguments.

    Raises:
        BundleError: The folder cannot be read, or weights are missing.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig

    try:
        head = Eagle3Head(AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False))
        head.model.load_state_dict(read(folder / WEIGHTS), assign=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BundleError(f"The head in {folder} cannot be loaded: {first_line(error)}", hint="Build it again.") from (
            error
        )
    for parameter in head.parameters():  # not the rotary frequencies, which are a buffer
        parameter.data = parameter.data.to(DTYPES[dtype])
    return head.to(device).eval()


def _make(config: Any, settings: Settings) -> Any:
    """Return transformers' model of one layer with the parts of a head in it."""
    from transformers import AutoModel

    # Embeddings and output layer may have more numbers than all else; nothing is drawn for them.
    small = copy.deepcopy(config)
    small.vocab_size, small.pad_token_id = 1, None
    model: Any = AutoModel.from_config(small, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.config.vocab_size = config.vocab_size
    size, parts = config.hidden_size, len(settings.layers)

    def norm(width: int) -> nn.Module:
        made: nn.Module = type(model.norm)(width, eps=config.rms_norm_eps)
        return made

    layer = model.layers[0]
    layer.hidden_norm = norm(size)
    for name in ("q_proj", "k_proj", "v_proj"):
        narrow = getattr(layer.self_attn, name)
        setattr(layer.self_attn, name, nn.Linear(2 * size, narrow.out_features, bias=narrow.bias is not None))
    if settings.norm_before_fc:
        model.input_norm = norm(settings.features)
    if settings.fc_norm:
        model.fc_norm = nn.ModuleList(norm(settings.features // parts) for _ in range(parts))
    model.fc = nn.Linear(settings.features, size, bias=False)
    model.embed_tokens = nn.Embedding(config.vocab_size, size, device="meta")
    model.lm_head = nn.Linear(size, settings.logits, bias=False, device="meta")
    return model.requires_grad_(False)
