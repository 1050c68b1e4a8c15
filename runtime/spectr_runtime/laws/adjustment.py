"""The changes to the logits of a text's next token: penalties, biases, and end tokens that are held back.

They are applied to the draft's logits and to the target's alike, before temperature and truncation. Penalties depend on
the tokens that were written, so every node of a draft tree has its own: its text is the row's, followed by the tokens
on the path to the node.
"""

# C rows that are adjusted, B rows, M nodes whose logits are adjusted, N nodes of the tree with the root, V vocabulary.
from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True, slots=True)
class Adjustment:
    """The rows of a batch whose logits are changed, as tensors, at the start of a round.

    Presence and frequency penalties are those of the OpenAI API. The repetition penalty is that of CTRL
    (arXiv 1909.05858, section 4.1), except that negative logits are multiplied: dividing them would raise them.

    Attributes:
        rows_C: Their indices in the batch.
        presence_C11: Presence penalties.
        frequency_C11: Frequency penalties.
        repetition_C11: Repetition penalties.
        bias_C1V: Biases.
        prompt_C1V: Which tokens occur in the prompt; bool.
        written_C1V: How often each token occurs in the completion so far.
        ends_C1V: Which tokens are end or stop tokens; bool.
        held_C1: How many tokens must still be written before an end or stop token may come.
    """

    rows_C: torch.Tensor
    presence_C11: torch.Tensor
    frequency_C11: torch.Tensor
    repetition_C11: torch.Tensor
    bias_C1V: torch.Tensor
    prompt_C1V: torch.Tensor
    written_C1V: torch.Tensor
    ends_C1V: torch.Tensor
    held_C1: torch.Tensor

    def apply(self, logits_BMV: torch.Tensor, tokens_BN: torch.Tensor, sees_MN: torch.Tensor) -> torch.Tensor:
        """Adjust the logits of some nodes of the draft tree.

        Args:
            logits_BMV: Logits of the token after each of the M nodes, at least as wide as the vocabulary; not changed.
            tokens_BN: Tokens of the tree's nodes from the root on, as many as the M nodes have on their paths.
            sees_MN: Which of the N nodes each of the M nodes has on its path, itself among them; bool.

        Returns:
            The logits [B, M, V] of all rows, as wide as the vocabulary.
        """
        adjusted_BMV = logits_BMV[..., : self.bias_C1V.shape[-1]].clone()
        # The root is a token of the row's own text, which the counts hold already.
        path_CN, on_path_MN = tokens_BN[self.rows_C, 1:], sees_MN[:, 1:]
        adjusted_BMV[self.rows_C] = self._adjust(adjusted_BMV[self.rows_C], path_CN, on_path_MN)
        return adjusted_BMV

    def _adjust(self, logits_CMV: torch.Tensor, path_CN: torch.Tensor, on_path_MN: torch.Tensor) -> torch.Tensor:
        """Adjust the logits of the rows C; the path is given without the root."""
        rows, nodes, _ = logits_CMV.shape
        path_CMN = path_CN[:, None].expand(-1, nodes, -1)
        written_CMV = self.written_C1V.repeat(1, nodes, 1)
        written_CMV.scatter_add_(2, path_CMN, on_path_MN.float().expand(rows, -1, -1))
        repeated_CMV = torch.where(logits_CMV > 0, logits_CMV / self.repetition_C11, logits_CMV * self.repetition_C11)
        logits_CMV = torch.where((written_CMV > 0) | self.prompt_C1V, repeated_CMV, logits_CMV)
        penalty_CMV = self.frequency_C11 * written_CMV + self.presence_C11 * (written_CMV > 0)
        early_CM1 = (on_path_MN.sum(-1) < self.held_C1)[..., None]
        return (logits_CMV - penalty_CMV + self.bias_C1V).masked_fill(early_CM1 & self.ends_C1V, -torch.inf)
