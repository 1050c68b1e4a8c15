"""Matrices whose codes are packed into 32-bit integers: the checkpoints of GPTQ and AWQ.

Both keep, for a layer of K inputs and N outputs, the tensors ``qweight``, ``qzeros`` and ``scales`` [G, N]. Codes are
unsigned, and a weight is scale * (code - zero point).

    GPTQ   qweight [K * bits / 32, N], qzeros [G, N * bits / 32], from the lowest bits up. Format ``gptq`` stores zero
           points less one, ``gptq_v2`` as they are. ``g_idx`` [K] is the block of each input: with ``desc_act`` blocks
           are not runs of inputs.
    AWQ    qweight [K, N / 8], qzeros [G, N / 8], four bits, the eight outputs of a word in the order 0 2 4 6 1 3 5 7.

Sources: ``QuantLinear`` of AutoGPTQ and GPTQModel, ``WQLinear_GEMM`` of AutoAWQ. The libraries that read such
checkpoints need other releases of torch than spectr does, so the layouts are read here.
"""

# K inputs, N outputs, G blocks, R rows, W words.
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch

from spectr_export.original.formats.blocks import Blocks, QuantisedMatrix, fitting_form
from spectr_runtime.errors import BundleError

WORD = 32
GPTQ_BITS = (2, 4, 8)
# By how much less than the zero points themselves a format stores them.
STORED_LESS = {"gptq": 1, "gptq_v2": 0}
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)  # where the outputs 0 to 7 of a word are
PARTS = ("qweight", "qzeros", "scales", "g_idx")
ANOTHER = "Use the checkpoint that it was quantised from, or one in GGUF or of compressed-tensors."
Tensors = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """How the codes and the zero points of a checkpoint are packed.

    Attributes:
        bits: Bits of a code.
        codes: Reads the codes [N, K] of ``qweight``.
        zeros: Reads the zero points [N, G] of ``qzeros``.
    """

    bits: int
    codes: Callable[[torch.Tensor], torch.Tensor]
    zeros: Callable[[torch.Tensor], torch.Tensor]


def read_gptq(tensors: Tensors, settings: Mapping[str, Any], _model: Any) -> dict[str, torch.Tensor | QuantisedMatrix]:
    """Return the tensors of a GPTQ checkpoint, with a matrix in place of each quantised layer's.

    Args:
        tensors: The tensors by their names in the checkpoint.
        settings: Its ``quantization_config``.

    Raises:
        BundleError: The codes have another number of bits or are packed in another way, or a tensor is missing.
    """
    bits, version = settings.get("bits"), settings.get("checkpoint_format") or "gptq"
    if bits not in GPTQ_BITS or version not in STORED_LESS:
        raise BundleError(
            f"The GPTQ checkpoint has {bits} bits in the format {version!r}; read are "
            f"{', '.join(map(str, GPTQ_BITS))} bits in {' and '.join(STORED_LESS)}.",
            hint=ANOTHER,
        )
    less = STORED_LESS[version]
    packing = Packing(bits, lambda words: _unpack(words.T, bits), lambda words: (_unpack(words, bits) + less).T)
    return _replaced(tensors, packing)


def read_awq(tensors: Tensors, settings: Mapping[str, Any], _model: Any) -> dict[str, torch.Tensor | QuantisedMatrix]:
    """Return the tensors of an AWQ checkpoint, with a matrix in place of each quantised layer's.

    Args:
        tensors: As in ``read_gptq``.
        settings: As in ``read_gptq``.

    Raises:
        BundleError: As in ``read_gptq``.
    """
    bits: int = settings.get("bits", settings.get("w_bit"))
    version = str(settings.get("version") or "gemm").lower()
    if bits != 4 or version != "gemm":
        raise BundleError(
            f"The AWQ checkpoint has {bits} bits in the version {version!r}; read are 4 bits in version gemm.",
            hint=ANOTHER,
        )

    def unpack(words: torch.Tensor) -> torch.Tensor:
        codes = _unpack(words, bits).view(len(words), -1, len(AWQ_ORDER))
        return codes[..., list(AWQ_ORDER)].flatten(1).T

    return _replaced(tensors, Packing(bits, unpack, unpack))


def _unpack(words_RW: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the unsigned codes of words, from the lowest bits up, as int32 [R, W * 32 / bits]."""
    codes: torch.Tensor = (words_RW[..., None] >> torch.arange(0, WORD, bits, dtype=torch.int32)) & (2**bits - 1)
    return codes.flatten(1)


def _replaced(tensors: Tensors, packing: Packing) -> dict[str, torch.Tensor | QuantisedMatrix]:
    """Put a matrix in place of the tensors of each quantised layer."""
    found: dict[str, torch.Tensor | QuantisedMatrix] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        if last == "qweight":
            own = {part: tensors[f"{path}.{part}"] for part in PARTS if f"{path}.{part}" in tensors}
            found[f"{path}.weight"] = _matrix(path, own, packing)
        elif last not in PARTS or f"{path}.qweight" not in tensors:
            found[name] = tensor
    return found


def _matrix(path: str, own: Tensors, packing: Packing) -> QuantisedMatrix:
    if not {"qzeros", "scales"} <= own.keys():
        raise BundleError(f"The checkpoint has {path}.qweight without qzeros or scales.", hint="Get it again.")
    half, zeros_NG = 2 ** (packing.bits - 1), packing.zeros(own["qzeros"])
    scales_NG = own["scales"].T.float()
    minima_NG = None if bool((zeros_NG == half).all()) else scales_NG * (half - zeros_NG)
    (outputs, groups), inputs = scales_NG.shape, packing.codes(own["qweight"][:, :1]).shape[1]

    def unpack() -> Blocks:
        return Blocks((packing.codes(own["qweight"]) - half).to(torch.int8), scales_NG, minima_NG)

    runs_K = torch.arange(inputs) // -(-inputs // groups)
    index_K = own["g_idx"].long() if "g_idx" in own else runs_K
    if inputs % groups == 0 and torch.equal(index_K, runs_K):
        code = "int4" if packing.bits <= 4 else "int8"
        form = fitting_form(code, (outputs, inputs), groups, minima=minima_NG is not None)
        return QuantisedMatrix.of((outputs, inputs), form, unpack)
    return QuantisedMatrix.scattered((outputs, inputs), index_K, unpack)
