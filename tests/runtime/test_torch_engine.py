from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support import whole
from tiny_models import save_checkpoint, tiny_model

from spectr_runtime import BundleError, Call, EngineError, ModelSpec
from spectr_runtime.engines.torch import TorchEngine

SPEC = ModelSpec("llama", 2, 2, 8, 257, 128)
TEXTS = ((5, 9, 200, 31, 7), (77, 3), (1, 2, 3, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("torch_engine"), tiny_model("llama"))


def text_call(texts: Sequence[Sequence[int]], first_row: int = 0, length: int = 8) -> Call:
    """Feed whole texts from slot 0, padded behind, and ask for the logits of each last token."""
    width = max(map(len, texts))
    mask_TL = torch.ones((width, length), dtype=torch.bool).tril()
    return Call(
        torch.tensor([[*text, *[0] * (width - len(text))] for text in texts]),
        torch.arange(width).repeat(len(texts), 1),
        mask_TL.repeat(len(texts), 1, 1, 1),
        torch.zeros(len(texts), dtype=torch.int64),
        torch.tensor([[len(text) - 1] for text in texts]),
        first_row,
    )


def test_last_token_scores_as_in_transformers(folder: Path) -> None:
    logits_BMV = TorchEngine(folder, SPEC, rows=3, capacity=16).forward(text_call(TEXTS))
    assert logits_BMV.dtype == torch.float32
    for text, logits_MV in zip(TEXTS, logits_BMV, strict=True):
        with torch.inference_mode():
            expected_V = tiny_model("llama")(input_ids=torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(logits_MV[0], expected_V, atol=1e-5, rtol=1e-4)


def test_a_row_alone_equals_the_row_in_a_batch(folder: Path) -> None:
    together_BMV = TorchEngine(folder, SPEC, rows=3, capacity=16).forward(text_call(TEXTS))
    alone = TorchEngine(folder, SPEC, rows=3, capacity=16)
    for row, text in enumerate(TEXTS):
        logits_BMV = alone.forward(text_call([text], first_row=row))
        torch.testing.assert_close(logits_BMV[0], together_BMV[row], atol=1e-5, rtol=1e-4)


def test_a_call_writes_its_rows_and_slots_only(folder: Path) -> None:
    engine = TorchEngine(folder, SPEC, rows=4, capacity=16)
    for piece in engine.cache.pieces:
        piece.fill_(-5.0)
    addresses = [piece.data_ptr() for piece in engine.cache.pieces]
    engine.forward(text_call(TEXTS[:2], first_row=1))
    written_RS = (whole(engine.cache) != -5.0).all(dim=(0, 2, 4))
    expected_RS = torch.zeros((4, 16), dtype=torch.bool)
    expected_RS[1:3, :5] = True
    assert torch.equal(written_RS, expected_RS)
    assert [piece.data_ptr() for piece in engine.cache.pieces] == addresses


def test_siblings_of_a_tree_score_as_their_paths(folder: Path) -> None:
    engine = TorchEngine(folder, SPEC, rows=1, capacity=16)
    root, first, second = 31, 8, 250
    engine.forward(text_call([(5, 9, root)]))
    # Both siblings are at position 3, in slots 3 and 4; each sees the text and itself.
    mask_TL = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]).bool()
    logits_BMV = engine.forward(
        Call(
            torch.tensor([[first, second]]),
            torch.tensor([[3, 3]]),
            mask_TL[None, None],
            torch.tensor([3]),
            torch.tensor([[0, 1]]),
        )
    )
    for node, token in enumerate((first, second)):
        with torch.inference_mode():
            expected_V = tiny_model("llama")(input_ids=torch.tensor([[5, 9, root, token]])).logits[0, -1]
        torch.testing.assert_close(logits_BMV[0, node], expected_V, atol=1e-5, rtol=1e-4)


def test_half_precision_gives_float32_logits(folder: Path) -> None:
    half = ModelSpec("llama", 2, 2, 8, 257, 128, dtype="bfloat16")
    engine = TorchEngine(folder, half, rows=1, capacity=16)
    logits_BMV = engine.forward(text_call(TEXTS[:1]))
    exact_BMV = TorchEngine(folder, SPEC, rows=1, capacity=16).forward(text_call(TEXTS[:1]))
    assert engine.cache.pieces[0].dtype == torch.bfloat16
    assert logits_BMV.dtype == torch.float32
    torch.testing.assert_close(logits_BMV, exact_BMV, atol=0.3, rtol=0.1)


def test_a_call_beyond_the_capacity_is_refused_before_anything_is_written(folder: Path) -> None:
    engine = TorchEngine(folder, SPEC, rows=1, capacity=4)
    with pytest.raises(EngineError, match=r"writes slots 0\.\.4 and reads the first 4; a row has 4"):
        engine.forward(text_call(TEXTS[:1], length=4))
    assert not whole(engine.cache).any()


def test_a_token_outside_the_vocabulary_is_an_engine_error(folder: Path) -> None:
    with pytest.raises(EngineError, match="PyTorch failed in a call"):
        TorchEngine(folder, SPEC, rows=1, capacity=16).forward(text_call([(257,)]))


def test_an_unknown_device_is_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match="on 'abacus'"):
        TorchEngine(folder, SPEC, rows=1, capacity=16, device="abacus")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="transformers cannot load the model"):
        TorchEngine(tmp_path, SPEC, rows=1, capacity=16)
