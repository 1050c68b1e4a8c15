"""The longest text that a model's positions allow, with the scaling of rotary positions counted.

A model card that tells users to scale the positions often leaves ``max_position_embeddings`` as it was, so the length
is ``factor`` times ``original_max_position_embeddings``. Other files have the product in ``max_position_embeddings``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from spectr_export.original.configuration.rotary import ORIGINAL, PARAMETERS, rotary_groups
from spectr_runtime.bundle.checks import LARGEST
from spectr_runtime.errors import BundleError

# Scalings whose factor is by how much longer texts become, and whose frequencies are the same in every text. A file
# with llama3 has the longer length in max_position_embeddings: 32 x 8192 would be twice what Llama 3.2 was made for.
FIXED = ("linear", "yarn", "proportional")
LENGTH = "max_position_embeddings"
CARD = '{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": %d}'


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """How long a text a model's positions allow.

    Attributes:
        tokens: The longest text.
        scaling: The scaling of rotary positions that allows it, in words; empty where it comes from
            ``max_position_embeddings``.
        remedy: What to do for longer texts; may be empty.
    """

    tokens: int
    scaling: str = ""
    remedy: str = ""

    def advice(self) -> str:
        """Return what to say to someone who asks for a longer text."""
        reason = f"rope scaling, {self.scaling}" if self.scaling else "config.json"
        return f"{self.tokens} tokens by {reason}. {self.remedy}".rstrip()


def find_reach(config: Any) -> Reach:
    """Return how long a text a model's positions allow.

    Layers that attend to a window of the text do not limit its length.

    Args:
        config: The model's transformers configuration.

    Raises:
        BundleError: The configuration does not say, or says something impossible.
    """
    stated = _stated(config)
    by_type = rotary_groups(config)
    limiting = [
        _reach_of(group, stated, getattr(config, ORIGINAL, None))
        for name, group in by_type.items()
        if name != "sliding_attention" or group.get("rope_type") == "dynamic" or len(by_type) == 1
    ]
    return min(limiting, key=lambda reach: reach.tokens, default=Reach(stated))


def longest_text(config: Any) -> int:
    """Return the longest text in tokens that a model's positions allow.

    Raises:
        BundleError: The configuration does not say.
    """
    return find_reach(config).tokens


def _stated(config: Any) -> int:
    """Return the length in the configuration; Bloom's has its own name for it."""
    length = getattr(config, LENGTH, None)
    length = getattr(config, "seq_length", None) if length is None else length
    if length is None:
        raise BundleError(
            f"The {config.model_type} model's config.json has no {LENGTH}, the longest text in tokens that it was "
            "made for.",
            hint=f"Add it, or build with `--config {LENGTH}=VALUE`.",
        )
    if not 1 <= length <= LARGEST:
        raise BundleError(
            f"The {config.model_type} model's config.json gives {LENGTH} as {length}; it must be from 1 to {LARGEST}.",
            hint=f"Correct it, or build with `--config {LENGTH}=VALUE`.",
        )
    return int(length)


def _reach_of(group: Mapping[str, Any], stated: int, original: int | None) -> Reach:
    kind, factor = group.get("rope_type", "default"), group.get("factor") or 1
    original = group.get(ORIGINAL) or original
    if kind == "dynamic":
        return Reach(
            stated,
            remedy=f"Beyond {stated} tokens dynamic scaling changes the frequencies with the length of the text, which "
            f"the keys in a cache cannot follow; {_advice(stated)}",
        )
    if kind not in FIXED or factor == 1:
        return Reach(stated, remedy=f"For longer texts {_advice(stated)}")
    if original is None:
        return Reach(
            stated,
            remedy=f"Its scaling ({kind}, factor {factor:g}) does not say whether {LENGTH} is the length before or "
            f"after it; if it is before, build with `--config {PARAMETERS}.{ORIGINAL}={stated}`.",
        )
    product = math.floor(factor * original)
    if product > LARGEST:
        raise BundleError(
            f"Rope scaling ({kind}, factor {factor:g} x {ORIGINAL} {original}) makes texts of {product:.4g} tokens; at "
            f"most {LARGEST} are possible.",
            hint="Correct the factor or the length in config.json.",
        )
    if product <= stated:
        return Reach(stated)
    return Reach(product, f"{kind}, factor {factor:g} x {ORIGINAL} {original}")


def _advice(stated: int) -> str:
    return f"scale its rotary positions as its model card says, such as with `--config rope_scaling='{CARD % stated}'`."
