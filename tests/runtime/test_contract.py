from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import save_checkpoint, tiny_config, tiny_model

from spectr_runtime import BundleError, Call, EngineError
from spectr_runtime.adapter.model import ContractModel, load_contract_model
from spectr_runtime.contract import KVCache, check_call

FAMILIES = ("llama", "qwen2", "gpt2", "opt")
TEXT = (3, 200, 17, 17, 90, 255, 0, 41)


def feed(
    model: ContractModel,
    past: list[torch.Tensor],
    text: Sequence[int],
    columns: Sequence[int] | None = None,
    start: int = 0,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Feed one row of plain text behind the first ``start`` slots."""
    tokens = len(text)
    causal_TL = torch.ones((tokens, start + tokens), dtype=torch.bool).tril(start)
    columns = list(range(tokens)) if columns is None else columns
    with torch.inference_mode():
        return model(
            torch.tensor([text]),
            torch.arange(start, start + tokens)[None],
            causal_TL[None, None],
            torch.tensor([start]),
            torch.tensor([columns]),
            past,
        )


def empty_past(kv_heads: int) -> list[torch.Tensor]:
    return [torch.zeros((1, kv_heads, 16, 8)) for _ in range(4)]


@pytest.mark.parametrize("family", FAMILIES)
def test_plain_text_scores_as_in_transformers(family: str) -> None:
    original = tiny_model(family)
    with torch.inference_mode():
        expected_TV = original(input_ids=torch.tensor([TEXT])).logits[0]
    contract = ContractModel(tiny_model(family))
    past = empty_past(4 if family in ("gpt2", "opt") else 2)
    feed(contract, past, TEXT[:5])
    logits_BMV, present = feed(contract, past, TEXT[5:], start=5)
    torch.testing.assert_close(logits_BMV[0], expected_TV[5:], atol=1e-5, rtol=1e-4)
    assert [part.data_ptr() for part in present] == [part.data_ptr() for part in past]


def test_only_the_wanted_columns_are_scored_in_the_order_asked() -> None:
    contract = ContractModel(tiny_model("llama"))
    every_BTV, _ = feed(contract, empty_past(2), TEXT)
    some_BMV, _ = feed(contract, empty_past(2), TEXT, columns=[6, 2, 2])
    torch.testing.assert_close(some_BMV, every_BTV[:, [6, 2, 2]])


def test_what_a_model_does_to_its_logits_still_happens() -> None:
    text = torch.tensor([TEXT])
    original = tiny_model("gemma3_text", head_dim=8, final_logit_softcapping=1.5)
    with torch.inference_mode():
        expected_TV = original(input_ids=text).logits[0]
    logits_BMV, _ = feed(ContractModel(original), empty_past(2), TEXT)
    assert float(expected_TV.abs().max()) <= 1.5
    torch.testing.assert_close(logits_BMV[0], expected_TV, atol=1e-5, rtol=1e-4)


LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.5, 1.25, 1.0, 0.75],
    "long_factor": [8.0] * 4,
    "rope_theta": 1e4,
}


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": len(TEXT)}),
        (
            "llama",
            {
                "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
                "max_position_embeddings": len(TEXT),
            },
        ),
    ],
)
def test_rotary_positions_stay_those_of_short_texts(family: str, changes: dict[str, Any]) -> None:
    with torch.inference_mode():
        expected_TV = tiny_model(family, **changes)(input_ids=torch.tensor([TEXT])).logits[0]
    # As padding may follow a text.
    longer = (*TEXT, 1, 2, 3)
    logits_BMV, _ = feed(ContractModel(tiny_model(family, **changes)), empty_past(2), longer, columns=range(len(TEXT)))
    torch.testing.assert_close(logits_BMV[0], expected_TV, atol=1e-5, rtol=1e-4)


def test_a_slot_that_the_mask_hides_does_not_count() -> None:
    contract = ContractModel(tiny_model("llama"))
    clean = empty_past(2)
    dirty = [torch.full_like(part, 7.0) for part in clean]
    torch.testing.assert_close(feed(contract, clean, TEXT)[0], feed(contract, dirty, TEXT)[0])


def test_other_models_of_the_process_are_left_alone() -> None:
    with torch.inference_mode():
        expected = tiny_model("llama")(input_ids=torch.tensor([TEXT])).logits
        contract = ContractModel(tiny_model("llama"))
        feed(contract, empty_past(2), TEXT)
        other = tiny_model("llama")
        torch.testing.assert_close(other(input_ids=torch.tensor([TEXT])).logits, expected, atol=0, rtol=0)
    assert other.config._attn_implementation == "eager"
    assert not contract.model.get_output_embeddings()._forward_pre_hooks


def test_a_model_that_keeps_its_own_attention_is_refused() -> None:
    with pytest.raises(BundleError, match="GPTJForCausalLM does not let its attention be chosen"):
        ContractModel(tiny_model("gptj", rotary_dim=8))


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    tiny_config("llama").save_pretrained(tmp_path)
    with pytest.raises(BundleError, match="transformers cannot load the model"):
        load_contract_model(tmp_path, dtype="float32", device=torch.device("cpu"))


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_is_loaded_in_the_type_asked_for(tmp_path: Path, family: str, dtype: torch.dtype) -> None:
    save_checkpoint(tmp_path, tiny_model(family).half())
    loaded = load_contract_model(tmp_path, dtype=str(dtype).removeprefix("torch."), device=torch.device("cpu"))
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert not loaded.training


def call(**changes: Any) -> Call:
    fields: dict[str, Any] = {
        "input_ids_BT": torch.zeros((2, 3), dtype=torch.int64),
        "position_ids_BT": torch.zeros((2, 3), dtype=torch.int64),
        "attention_mask_B1TL": torch.ones((2, 1, 3, 10), dtype=torch.bool),
        "write_index_B": torch.tensor([0, 7]),
        "logit_index_BM": torch.zeros((2, 1), dtype=torch.int64),
        "first_row": 1,
    }
    return Call(**{**fields, **changes})


CACHE = KVCache(1, 3, 1, 10, 1, dtype=torch.float32, device=torch.device("cpu"))


def test_a_call_that_fills_the_cache_to_the_brim_passes() -> None:
    check_call(call(), CACHE)


def test_a_device_is_not_waited_for() -> None:
    """A tensor of the device ``meta`` has no numbers that could be waited for."""
    meta = torch.device("meta")
    cache = KVCache(1, 3, 1, 100, 1, dtype=torch.float32, device=meta, grows=True)
    check_call(call(write_index_B=torch.tensor([0, 7], device=meta)), cache)
    cache.hold(1, 2, 10)
    cache.keep(torch.tensor([2, 60], device=meta), torch.tensor([[2, 4], [-1, -1]], device=meta), 68)
    assert cache.slots == 100
    with pytest.raises(EngineError, match="reads the first 101; a row has 100"):
        check_call(
            call(
                write_index_B=torch.tensor([0, 7], device=meta),
                attention_mask_B1TL=torch.ones((2, 1, 3, 101), dtype=torch.bool),
            ),
            cache,
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"write_index_B": torch.tensor([0, 8])}, "writes slots 0..10 and reads the first 10; a row has 10"),
        ({"write_index_B": torch.tensor([-1, 0])}, r"writes slots -1\.\."),
        (
            {"attention_mask_B1TL": torch.ones((2, 1, 3, 9), dtype=torch.bool)},
            "writes slots 0..9 and reads the first 9",
        ),
        ({"attention_mask_B1TL": torch.ones((2, 1, 3, 11), dtype=torch.bool)}, "reads the first 11"),
        ({"first_row": 2}, r"rows 2\.\.3; the cache has 3"),
        ({"first_row": -1}, r"rows -1\.\.0"),
        ({"attention_mask_B1TL": torch.ones((2, 1, 3, 10))}, r"attention_mask is .* torch.float32; .* torch.bool"),
        ({"attention_mask_B1TL": torch.ones((2, 3, 3, 10), dtype=torch.bool)}, r"this call needs \(2, 1, 3, 10\)"),
        ({"input_ids_BT": torch.zeros((2, 3), dtype=torch.int32)}, "input_ids is .* torch.int32"),
        ({"position_ids_BT": torch.zeros((2, 4), dtype=torch.int64)}, "position_ids is"),
        ({"write_index_B": torch.tensor([0])}, "write_index is"),
        ({"logit_index_BM": torch.zeros((2, 0), dtype=torch.int64)}, "feeds 3 tokens"),
    ],
)
def test_a_call_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_call(call(**changes), CACHE)
