"""What a CUDA graph cannot record is refused, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pytest
import torch
from capturable import capturable

ON = ("cpu", "meta")
ELSEWHERE = torch.zeros(())

Operation = Callable[[torch.Tensor, torch.Tensor], object]  # floats [2, 3] and indices [2] on one device

REFUSED: dict[str, Operation] = {
    "item": lambda x, i: x[0, 0].item(),
    "bool": lambda x, i: bool((x > 0).all()),
    "int": lambda x, i: int(i[0]),
    "float": lambda x, i: float(x[0, 0]),
    "index": lambda x, i: x[: i[0]],
    "format": lambda x, i: f"{x[0, 0]:.2f}",
    "repr": lambda x, i: repr(x),
    "in": lambda x, i: 3 in i,
    "tolist": lambda x, i: x.tolist(),
    "numpy": lambda x, i: x.numpy(),
    "asarray": lambda x, i: numpy.asarray(x),
    "cpu": lambda x, i: x.cpu(),
    "equal": lambda x, i: torch.equal(x, x),
    "allclose": lambda x, i: torch.allclose(x, x),
    "is_nonzero": lambda x, i: torch.is_nonzero(x[0, 0]),
    "nonzero": lambda x, i: x.nonzero(),
    "argwhere": lambda x, i: torch.argwhere(x),
    "where of one": lambda x, i: torch.where(x > 0),
    "masked_select": lambda x, i: x.masked_select(x > 0),
    "mask": lambda x, i: x[x > 0],
    "mask of a part": lambda x, i: x[:, x[0] > 0],
    "write to a mask": lambda x, i: x.index_put_((x > 0,), x.sum()),
    "unique": lambda x, i: x.unique(),
    "unique rows": lambda x, i: x.unique(dim=0),
    "unique neighbours": lambda x, i: x.unique_consecutive(),
    "bincount": lambda x, i: i.bincount(),
    "repeat": lambda x, i: x.repeat_interleave(i, 0),
    "one_hot": lambda x, i: torch.nn.functional.one_hot(i),
    "tensor": lambda x, i: torch.tensor([1, 2], device=x.device),
    "tensor of a number": lambda x, i: torch.tensor(1.0, device=x.device),
    "as_tensor": lambda x, i: torch.as_tensor(3),
    "new_tensor": lambda x, i: x.new_tensor([1.0]),
    "from_numpy": lambda x, i: torch.from_numpy(numpy.ones(2)),
    "list as index": lambda x, i: x[:, [0, 1]],
    "write to a list": lambda x, i: x.__setitem__([0], x[0]),
    "array as index": lambda x, i: x[numpy.array([0, 1])],
}
MIXED: dict[str, Operation] = {
    "to": lambda x, i: x.to("cpu"),
    "from": lambda x, i: ELSEWHERE.to(x.device),
    "copy_": lambda x, i: x.copy_(ELSEWHERE),
    "index": lambda x, i: x[ELSEWHERE.long()[None]],
    "where": lambda x, i: torch.where(x > 0, x, ELSEWHERE),
    "zeros_like": lambda x, i: torch.zeros_like(x, device="cpu"),
}
HARMLESS: dict[str, Operation] = {
    "arithmetic": lambda x, i: 2 + x * 3 - 2**x,
    "new": lambda x, i: torch.full((2, 3), 1.0, device=x.device) + torch.arange(3, device=x.device),
    "like": lambda x, i: torch.zeros_like(x) + x.new_zeros((2, 3)) + x.new_full((2, 3), 1.0),
    "gather": lambda x, i: (x[i], x[:, 0], x[:, None], x[i, i], x.index_select(0, i), x.gather(1, i[:, None])),
    "scatter": lambda x, i: (x.scatter(1, i[:, None], 1.0), x.index_put_((i,), x[i])),
    "mask": lambda x, i: (torch.where(x > 0, x, 0), x.masked_fill(x > 0, -torch.inf), (x > 0).any(1)),
    "repeat": lambda x, i: (x.repeat(1, 2), x.repeat_interleave(2, 0), x.repeat_interleave(i, 0, output_size=1)),
    "order": lambda x, i: (x.sort(), x.topk(2), x.argmax(1), x.cumsum(1), torch.searchsorted(x, x)),
    "types": lambda x, i: (x.double(), x.to(torch.int64), x.to(x.device), i.bool()),
    "iteration": lambda x, i: [row.sum() for row in x],
    "product": lambda x, i: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=x[:, :2] > 0),
}


def tensors_on(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(6.0, device=device).view(2, 3), torch.arange(2, device=device).flip(0)


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inference", [False, True], ids=["grad", "inference"])
def test_what_cannot_be_captured_is_refused(name: str, device: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        tensors = tensors_on(device)
        with (
            pytest.raises(AssertionError, match=r"cannot be captured, .*\. tests/test_capturable\.py:\d+: "),
            capturable(),
        ):
            REFUSED[name](*tensors)


@pytest.mark.parametrize("name", MIXED)
def test_devices_are_not_mixed(name: str) -> None:
    with pytest.raises(AssertionError, match="its tensors lie on different devices"), capturable():
        MIXED[name](*tensors_on("meta"))


@pytest.mark.parametrize("device", ON)
@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("inference", [False, True], ids=["grad", "inference"])
def test_what_can_be_captured_passes(name: str, device: str, inference: bool) -> None:
    with torch.inference_mode(inference):
        tensors = tensors_on(device)
        with capturable():
            HARMLESS[name](*tensors)


def test_results_stay_the_same() -> None:
    numbers, _ = tensors_on("cpu")
    with capturable():
        product = numbers @ numbers.T
    assert torch.equal(product, numbers @ numbers.T)
