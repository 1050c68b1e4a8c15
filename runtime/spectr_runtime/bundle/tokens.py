"""Which tokens of the target the logits of a draft are for, where they are not the first ones in order.

The folder of such a draft has a file ``tokens.safetensors`` with one tensor, ``tokens`` [N]: I64, for each logit the id
that its token has in the target. A draft that is a model of its own has these tokens under its own ids, from 0 to
N - 1, and is fed them under these. A head is fed all tokens of its target under the target's ids.
"""

# N tokens that the draft scores.
from __future__ import annotations

import torch

from spectr_runtime.bundle.bundle import Bundle
from spectr_runtime.bundle.layout import TOKENS
from spectr_runtime.errors import BundleError

TENSOR = "tokens"


def read_tokens(bundle: Bundle) -> torch.Tensor | None:
    """Return the target's ids of the tokens that the draft scores; int64 [N], or None for the first ones in order.

    Raises:
        BundleError: The file holds something else.
    """
    if f"draft/{TOKENS}" not in bundle.manifest.files:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, manifest = bundle.model("draft") / TOKENS, bundle.manifest
    try:
        tokens_N = load_file(path)[TENSOR]
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read: {error}.", hint="Build the bundle again.") from error
    check_tokens(tokens_N, manifest.models["draft"].vocabulary, manifest.models["target"].vocabulary, str(path))
    return tokens_N


def check_tokens(tokens_N: torch.Tensor, width: int, most: int, name: str) -> None:
    """Check that there is a token of the target for every logit of a draft, and that no two are the same.

    Args:
        tokens_N: The target's ids.
        width: Number of logits of the draft.
        most: Number of logits of the target.
        name: Where the ids come from, for the message.

    Raises:
        BundleError: A token is missing, or is not one of the target's, or stands twice.
    """
    sound, different = tokens_N.dtype == torch.int64 and tokens_N.shape == (width,), len({*tokens_N.flatten().tolist()})
    if not sound or different != width or int(tokens_N.min()) < 0 or int(tokens_N.max()) >= most:
        raise BundleError(
            f"{name}: the draft has {width} logits, each for another of the target's {most} tokens; there are "
            f"{tuple(tokens_N.shape)} {tokens_N.dtype} from {tokens_N.min()} to {tokens_N.max()}, "
            f"{different} of them different.",
            hint="Use a draft that was made for this target.",
        )
