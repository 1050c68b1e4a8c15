"""A table engine in which what is not finite spreads as it does in a model."""

# B rows, T tokens fed, L attention length, V vocabulary.
from __future__ import annotations

import torch
from support import TableEngine

from spectr_runtime.contract import Call


class FragileEngine(TableEngine):
    """A table engine that computes NaN for some texts, and wherever there is NaN in what a call looks at.

    A masked slot counts too, as it does in attention: zero times NaN is NaN. Tokens outside of the vocabulary fail, as
    they do in a model's embeddings.
    """

    def breaks(self, token_BT: torch.Tensor, position_BT: torch.Tensor) -> torch.Tensor:
        """Return what a model would have no finite logits for; bool [B, T]."""
        raise NotImplementedError

    def forward(self, call: Call) -> torch.Tensor:
        """Contract of ``Engine.forward``."""
        rows, tokens = call.input_ids_BT.shape
        torch.nn.functional.embedding(call.input_ids_BT, self.logits_SV[:, :1][: self.spec.vocabulary])
        logits_BMV = super().forward(call)
        device = self.cache.device
        row_B1 = torch.arange(call.first_row, call.first_row + rows, device=device)[:, None]
        slot_BT = call.write_index_B[:, None] + torch.arange(tokens, device=device)
        keys_BL = self.cache.parts()[0][row_B1[:, 0], 0, : call.attention_mask_B1TL.shape[-1], 0]
        broken_B = keys_BL.isnan().any(1) | self.breaks(call.input_ids_BT, call.position_ids_BT).any(1)
        kept_BT = self.cache.parts()[0][row_B1, 0, slot_BT, 0]
        self.cache.parts()[0][row_B1, 0, slot_BT, 0] = torch.where(broken_B[:, None], torch.nan, kept_BT)
        return torch.where(broken_B[:, None, None], torch.nan, logits_BMV)


class EndFragile(FragileEngine):
    """Breaks where the end token is fed in plain rounds: where a row has ended, and where there is none.

    Calls that read shorter rows beside longer ones are padded with this token.
    """

    def breaks(self, token_BT: torch.Tensor, position_BT: torch.Tensor) -> torch.Tensor:
        """See ``FragileEngine``."""
        return (token_BT == 0) & (token_BT.shape[1] == 1)


class PlaceFragile(FragileEngine):
    """Breaks at a token of a live row."""

    def breaks(self, token_BT: torch.Tensor, position_BT: torch.Tensor) -> torch.Tensor:
        """See ``FragileEngine``."""
        return (token_BT == 3) & (position_BT == 9)


class BehindFragile(FragileEngine):
    """Breaks at the last token of a long prompt, unless all before it is read."""

    def breaks(self, token_BT: torch.Tensor, position_BT: torch.Tensor) -> torch.Tensor:
        """See ``FragileEngine``."""
        return (token_BT == 4) & (position_BT < 20)
