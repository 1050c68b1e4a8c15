"""What binds a head to its target in a bundle, and the calls of engines that read and give out hidden states."""

# B rows, T tokens fed, L attention length, F width of the features, E hidden size.
from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import whole
from table_pair import table_bundle
from tensorrt_double import RELEASES
from tensorrt_gpu import Gpu, Plan, put_in_place
from tiny_heads import LAYERS, LOGITS, SIZE, bundled_head
from tiny_models import VOCABULARY, save_checkpoint, tiny_model

from spectr_runtime import Bundle, BundleError, Call, Manifest, ModelSpec
from spectr_runtime.bundle import Features, Head, Role
from spectr_runtime.bundle.compiled import CompiledEngine, Dimension, EngineKey, Profile
from spectr_runtime.bundle.tokens import read_tokens
from spectr_runtime.contract import HeadInputs, Output
from spectr_runtime.engines.tensorrt import TensorRTEngine
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.speculation.narrow import WidenedEngine, widened

WIDTH = len(LAYERS) * SIZE
FEATURES, HEAD = Features(LAYERS, WIDTH), Head("eagle3", WIDTH, SIZE)
ROWS, SLOTS = 2, 64


def manifest(**changes: dict[str, Any]) -> Manifest:
    """A manifest of a target with features and its head, with other sizes for either."""
    record = table_bundle(4).manifest
    own: dict[Role, dict[str, Any]] = {"target": {"features": FEATURES}, "draft": {"head": HEAD}}
    models = {
        role: dataclasses.replace(record.models[role], **{**fields, **changes.get(role, {})})
        for role, fields in own.items()
    }
    return dataclasses.replace(record, models=models)


def test_a_manifest_with_a_head_is_read_as_it_was_written() -> None:
    written = manifest()
    assert Manifest.from_json(json.loads(json.dumps(written.to_json()))) == written
    assert [written.models[role].states for role in ("target", "draft")] == [WIDTH, SIZE]
    assert table_bundle(4).manifest.models["target"].states == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"target": {"features": None}},
        {"target": {"features": Features(LAYERS, WIDTH + 1)}},
        {"target": {"dtype": "float16"}},
        {"target": {"head": HEAD}},
        {"draft": {"head": None}},
        {"draft": {"features": FEATURES}},
    ],
    ids=str,
)
def test_a_head_that_does_not_read_what_the_target_gives_out_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="The draft reads features of"):
        manifest(**changes)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("features", {"layers": [], "width": 96}),
        ("features", {"layers": [-1], "width": 96}),
        ("features", {"layers": [1, "2"], "width": 96}),
        ("features", {"layers": [1], "width": 0}),
        ("features", {"width": 96}),
        ("head", {"kind": "medusa", "features": 96, "hidden": 32}),
        ("head", {"kind": "eagle3", "features": 96, "hidden": -1}),
        ("head", {"kind": "eagle3", "features": 96, "hidden": 32, "more": 1}),
        ("head", 3),
    ],
    ids=str,
)
def test_malformed_features_and_heads_are_refused(part: str, value: Any) -> None:
    record = manifest().to_json()
    record["models"]["target" if part == "features" else "draft"][part] = value
    with pytest.raises(BundleError):
        Manifest.from_json(record)


def bundle_of(folder: Path, tokens: torch.Tensor | None) -> Bundle:
    files = {} if tokens is None else {"draft/tokens.safetensors": ""}
    if tokens is not None:
        (folder / "draft").mkdir()
        save_file({"tokens": tokens}, folder / "draft" / "tokens.safetensors")
    return Bundle(folder, dataclasses.replace(manifest(draft={"vocabulary": 3}), files=files))


def test_the_tokens_of_a_draft_are_read_where_there_are_some(tmp_path: Path) -> None:
    assert read_tokens(bundle_of(tmp_path, None)) is None
    found = read_tokens(bundle_of(tmp_path, torch.tensor([4, 0, 2])))
    assert found is not None
    assert found.tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    "tokens",
    [
        torch.tensor([4, 0]),
        torch.tensor([4, 0, 4]),
        torch.tensor([4, 0, -1]),
        torch.tensor([4, 0, 5]),
        torch.tensor([4.0, 0.0, 2.0]),
        torch.tensor([[4, 0, 2]]),
    ],
    ids=str,
)
def test_malformed_tokens_are_refused(tokens: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the draft has 3 logits, each for another of the target's 5 tokens"):
        read_tokens(bundle_of(tmp_path, tokens))
    save_file({"others": tokens}, tmp_path / "draft" / "tokens.safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        read_tokens(Bundle(tmp_path, dataclasses.replace(manifest(), files={"draft/tokens.safetensors": ""})))


def head_call(seed: int, tokens: int, spec: ModelSpec) -> Call:
    """A call that feeds random pairs to all rows after slot 3, with random masks."""
    generator = torch.Generator().manual_seed(seed)
    mask_B1TL = torch.rand((ROWS, 1, tokens, 40), generator=generator) < 0.6
    inputs = HeadInputs(
        torch.randn((ROWS, tokens, WIDTH), generator=generator),
        torch.randn((ROWS, tokens, SIZE), generator=generator),
        torch.rand((ROWS, tokens), generator=generator) < 0.5,
    )
    return Call(
        torch.randint(VOCABULARY, (ROWS, tokens), generator=generator),
        torch.randint(100, (ROWS, tokens), generator=generator),
        mask_B1TL,
        torch.full((ROWS,), 3),
        torch.randint(tokens, (ROWS, 1), generator=generator),
        head=inputs if spec.head else None,
    )


def compiled() -> CompiledEngine:
    spans = {letter: Dimension(1, most, most) for letter, most in (("B", ROWS), ("T", 8), ("L", SLOTS), ("M", 8))}
    key = EngineKey("tensorrt-rtx", RELEASES[-1], ("8.9",))
    return CompiledEngine(key, "", "", SLOTS, (Profile("decode", spans),), "fused", weight_streaming=False)


@pytest.mark.parametrize("role", ["target", "draft"])
@torch.inference_mode()
def test_compiled_engines_read_and_give_out_states(role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if role == "draft":
        spec = bundled_head(tmp_path / role)
    else:
        save_checkpoint(tmp_path / role, tiny_model("llama", num_hidden_layers=4))
        spec = ModelSpec("llama", 4, 2, 8, VOCABULARY, 128, features=FEATURES)
    reference, record = TorchEngine(tmp_path / role, spec, rows=ROWS, capacity=SLOTS), compiled()
    put_in_place(Gpu({b"plan": Plan(reference._model, spec, record)}), RELEASES[-1], monkeypatch)
    (tmp_path / "one.engine").write_bytes(b"plan")
    sizes: dict[str, Any] = {"rows": ROWS, "capacity": SLOTS, "tree": 1, "device": "cpu"}
    engine = TensorRTEngine(tmp_path / "one.engine", record, spec, **sizes)
    for seed, tokens in enumerate((5, 1, 8)):
        call = head_call(seed, tokens, spec)
        found, expected = engine.run(call), reference.run(call)
        assert found.states_BTW is not None
        assert found.states_BTW.shape == (ROWS, tokens, spec.states)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(engine.forward(call), expected.logits_BMV)
        torch.testing.assert_close(whole(engine.cache), whole(reference.cache))


@torch.inference_mode()
def test_a_head_uses_its_own_state_or_the_features_and_nothing_of_the_other(tmp_path: Path) -> None:
    spec = bundled_head(tmp_path / "draft")
    engine = TorchEngine(tmp_path / "draft", spec, rows=ROWS, capacity=SLOTS)

    def scored(call: Call, **changes: Any) -> torch.Tensor:
        assert call.head is not None
        return engine.forward(dataclasses.replace(call, head=dataclasses.replace(call.head, **changes))).clone()

    call = head_call(0, 4, spec)
    for own, kept, changed in ((True, "hidden_BTH", "features_BTF"), (False, "features_BTF", "hidden_BTH")):
        own_BT = torch.full((ROWS, 4), own)
        before = scored(call, own_BT=own_BT)
        assert torch.equal(
            scored(call, own_BT=own_BT, **{changed: torch.zeros_like(getattr(call.head, changed))}), before
        )
        other = scored(call, own_BT=own_BT, **{kept: torch.zeros_like(getattr(call.head, kept))})
        assert not torch.allclose(other, before, atol=1e-2)


@torch.inference_mode()
def test_a_widened_head_gives_out_its_states(tmp_path: Path) -> None:
    spec = bundled_head(tmp_path / "draft")
    engine, plain = (TorchEngine(tmp_path / "draft", spec, rows=ROWS, capacity=SLOTS) for _ in range(2))
    tokens_N = torch.arange(LOGITS) + 20
    models = {"draft": spec, "target": ModelSpec("llama", 4, 2, 8, VOCABULARY, 128, features=FEATURES)}
    save_file({"tokens": tokens_N}, tmp_path / "draft" / "tokens.safetensors")
    record = manifest()
    record = dataclasses.replace(
        record,
        models=models,
        vocabulary=dataclasses.replace(record.vocabulary, size=VOCABULARY),
        files={"draft/tokens.safetensors": ""},
    )
    wide = widened(engine, Bundle(tmp_path, record))
    assert isinstance(wide, WidenedEngine)
    call = head_call(0, 4, spec)
    found, expected = wide.run(call), plain.run(call)
    assert isinstance(found, Output)
    assert torch.equal(found.logits_BMV[..., tokens_N], expected.logits_BMV)
    assert (found.logits_BMV[..., :20] == -torch.inf).all()
    torch.testing.assert_close(found.states_BTW, expected.states_BTW)
