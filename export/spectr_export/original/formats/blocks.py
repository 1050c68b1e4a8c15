"""A quantised matrix as a checkpoint has it: codes, and a scale for each block of inputs, and perhaps a minimum.

    weight = scale * code + minimum

Every format that is read comes down to this. Codes are signed, and an integer zero point z becomes the minimum
-scale * z. Where codes are unsigned, half of their range is subtracted from them, and ``scale * half`` added to the
minimum, so that a format whose numbers are spread around zero has no minima left.
"""

# N outputs, K inputs, G blocks of inputs.
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

# The blocks for which runtimes have kernels, the largest first.
BLOCKS = (128, 64, 32, 16)


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """The form in which a matrix is stored in a bundle; printed, for instance, as ``int4 in blocks of 32 with minima``.

    Attributes:
        code: Type of the codes: ``int4``, ``int8`` or ``fp8``.
        block: Inputs that share a scale; None for all inputs of an output.
        minima: Whether the blocks have minima.
    """

    code: str
    block: int | None = None
    minima: bool = False

    def __str__(self) -> str:
        blocks = f" in blocks of {self.block}" if self.block else ""
        return f"{self.code}{blocks}{' with minima' if self.minima else ''}"


@dataclasses.dataclass(frozen=True, slots=True)
class Blocks:
    """A quantised matrix.

    Attributes:
        codes_NK: Its codes, int8 or float8_e4m3fn [N, K].
        scales_NG: The scales, in any floating type [N, G]; K is a multiple of G.
        minima_NG: The minima, like the scales; None for none.
    """

    codes_NK: torch.Tensor
    scales_NG: torch.Tensor
    minima_NG: torch.Tensor | None = None

    def decode(self) -> torch.Tensor:
        """Return the matrix in float32 [N, K]."""
        outputs, inputs = self.codes_NK.shape
        groups = self.scales_NG.shape[1]
        weights_NGK = self.codes_NK.float().view(outputs, groups, inputs // groups) * self.scales_NG.float()[..., None]
        if self.minima_NG is not None:
            weights_NGK += self.minima_NG.float()[..., None]
        return weights_NGK.view(outputs, inputs)

    def decode_scattered(self, index_K: torch.Tensor) -> torch.Tensor:
        """Return the matrix in float32 [N, K] if its blocks are not runs of inputs: ``index_K`` names each one's."""
        matrix_NK = self.codes_NK.float() * self.scales_NG.float()[:, index_K]
        return matrix_NK if self.minima_NG is None else matrix_NK + self.minima_NG.float()[:, index_K]

    def take_outputs(self, order: torch.Tensor) -> Blocks:
        """Return the matrix with its outputs in another order: output n is what output ``order[n]`` was."""
        minima_NG = None if self.minima_NG is None else self.minima_NG[order]
        return Blocks(self.codes_NK[order], self.scales_NG[order], minima_NG)


@dataclasses.dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A quantised matrix of a checkpoint that is unpacked when it is needed.

    Attributes:
        shape: Its sizes, the outputs first.
        form: The form in which a bundle can hold its blocks; None if it can hold them in none.
        read: Reads the numbers of the matrix, [N, K] in float32, as the format's own library gives them.
        unpack: Reads the blocks; None if ``form`` is.
    """

    shape: tuple[int, ...]
    form: Form | None
    read: Callable[[], torch.Tensor]
    unpack: Callable[[], Blocks] | None = None

    @staticmethod
    def of(shape: Sequence[int], form: Form | None, unpack: Callable[[], Blocks]) -> QuantisedMatrix:
        """Make the matrix of its blocks alone."""
        outputs, inputs = shape
        return QuantisedMatrix((outputs, inputs), form, lambda: unpack().decode(), unpack if form else None)

    @staticmethod
    def scattered(shape: Sequence[int], index_K: torch.Tensor, unpack: Callable[[], Blocks]) -> QuantisedMatrix:
        """Make the matrix of blocks that are not runs of inputs, which a bundle cannot hold.

        Args:
            shape: Outputs and inputs.
            index_K: The block of each input.
            unpack: Reads the blocks.
        """
        outputs, inputs = shape
        return QuantisedMatrix((outputs, inputs), None, lambda: unpack().decode_scattered(index_K))

    def to(self, device: str) -> torch.Tensor:
        """Return a tensor of the matrix's shape and type without data, for ``device`` ``meta`` and no other."""
        return torch.empty(self.shape, device=device)


def fitting_form(code: str, shape: Sequence[int], groups: int, *, minima: bool) -> Form | None:
    """Return the form in which a bundle holds blocks, or None if they do not fill the inputs evenly.

    int4 needs an even number of outputs, because two share a byte, and is stored as int8 otherwise. One scale for all
    inputs of an output is stored as int4 with a scale for each block, all equal, since the kernels for int4 have
    blocks.

    Args:
        code: ``int4``, ``int8`` or ``fp8``.
        shape: Outputs and inputs.
        groups: Number of blocks of an output.
        minima: Whether they have minima.
    """
    outputs, inputs = shape
    if inputs % groups:
        return None
    code = "int8" if code == "int4" and outputs % 2 else code
    block = inputs // groups
    if code == "int4" and block not in BLOCKS:
        block = next((size for size in BLOCKS if block % size == 0), 0)
        if not block:
            return None
    return Form(code, block if block < inputs or code == "int4" else None, minima)
