from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import POSITIONS, VOCABULARY, save_checkpoint, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_export import preparation
from spectr_export.build import Built, build, check
from spectr_export.checks import parity
from spectr_export.inspection import describe
from spectr_export.original.model import load_original, measure_spec
from spectr_export.preparation import BuildOptions
from spectr_export.storing.save import save_model
from spectr_runtime import (
    Bundle,
    BundleError,
    Completion,
    Decoder,
    EngineError,
    Plan,
    Request,
    SamplingParams,
    UsageError,
    open_engine,
)
from spectr_runtime.backends import Backend


def run_build(
    pair: tuple[Path, Path], output: Path, *, capacity: int | None = None, **how: Any
) -> tuple[Built, list[str]]:
    lines: list[str] = []
    options = BuildOptions(*map(str, pair), capacity=capacity)
    return build(options, output, **{"say": lines.append, **how}), lines


def test_the_manifest_says_what_was_built(bundle_path: Path) -> None:
    manifest = Bundle.open(bundle_path).manifest
    target, draft = manifest.models["target"], manifest.models["draft"]
    assert (target.architecture, target.layers, target.kv_heads, target.head_size) == ("llama", 2, 2, 8)
    assert (draft.layers, draft.vocabulary, target.vocabulary) == (1, VOCABULARY, VOCABULARY + 7)
    assert (target.dtype, target.max_positions) == ("float32", POSITIONS)
    assert (manifest.vocabulary.size, manifest.vocabulary.eos_token_ids) == (VOCABULARY, (VOCABULARY - 1,))
    assert (manifest.limits.capacity, manifest.limits.tokens_per_call) == (POSITIONS, 256)
    assert manifest.versions["torch"] == torch.__version__
    for role in ("draft", "target"):
        assert set(manifest.parity[role]) == {"prefill", "tree", "steps"}
        assert 0 < max(manifest.parity[role].values()) < 1e-4


def test_the_bundle_holds_its_files_and_nothing_else(bundle_path: Path) -> None:
    manifest = Bundle.open(bundle_path).manifest
    files = {path.relative_to(bundle_path).as_posix() for path in bundle_path.rglob("*") if path.is_file()}
    assert files == {*manifest.files, "spectr.json"}
    assert {name for name in files if not name.startswith("tokenizer/")} == {
        "spectr.json",
        *(f"{role}/{name}" for role in ("draft", "target") for name in FILES),
    }
    assert len({path.stat().st_mode for path in bundle_path.rglob("*") if path.is_file()}) == 1


FILES = ("config.json", "model.onnx", "model.safetensors")


def test_weights_of_the_half_precision_checkpoint_are_kept_exactly(bundle_path: Path, pair: tuple[Path, Path]) -> None:
    original = AutoModelForCausalLM.from_pretrained(pair[0]).state_dict()
    built = AutoModelForCausalLM.from_pretrained(bundle_path / "target").state_dict()
    assert {tensor.dtype for tensor in original.values()} == {torch.float16}
    assert {tensor.dtype for tensor in built.values()} == {torch.float32}
    assert original.keys() == built.keys()
    assert all(torch.equal(built[name], tensor.float()) for name, tensor in original.items())


def test_the_tokenizer_of_the_target_comes_along(bundle_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(Bundle.open(bundle_path).tokenizer)
    ids = tokenizer("naïve 🙂")["input_ids"]
    assert tokenizer.decode(ids) == "naïve 🙂"
    assert len(ids) == len("naïve 🙂".encode())


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_engines_open_the_bundle(bundle_path: Path, backend: Backend) -> None:
    engine = open_engine(
        Bundle.open(bundle_path), "target", backend=backend, device="cpu", rows=3, capacity=parity.SMALLEST_CAPACITY
    )
    parity.check_parity(load_original(bundle_path / "target"), engine, name=backend)


def test_building_again_replaces_the_bundle_by_the_same_files(
    bundle_path: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    before = Bundle.open(output)
    with pytest.raises(UsageError, match="exists"):
        run_build(pair, output)
    (output / "draft" / "config.json").write_text("spoilt")
    built, lines = run_build(pair, output, overwrite=True)
    assert Bundle.open(output).manifest.files == before.manifest.files
    assert [path.name for path in tmp_path.iterdir()] == ["copy.bundle"]
    assert built.size == sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    assert lines[0] == f"capacity {POSITIONS} tokens per text"
    assert [line.partition(":")[0] for line in lines[1:]] == ["draft", "draft", "target", "target", "draft"]
    assert re.fullmatch(r"draft: llama, 0\.0 M parameters, 1 layers, float32", lines[1])
    assert re.fullmatch(r"target: logits within \S+ of transformers \(prefill \S+, tree \S+, steps \S+\)", lines[4])
    assert re.fullmatch(r"draft: \d+\.\d% of its tokens accepted at temperature 1", lines[5])


def test_a_build_whose_parity_fails_leaves_nothing(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "ABSOLUTE", 0.0)
    monkeypatch.setattr(parity, "RELATIVE", 0.0)
    with pytest.raises(BundleError, match=r"Parity failed \(draft, prefill\)") as caught:
        run_build(pair, tmp_path / "bundle")
    assert caught.value.exit_code == 42
    assert list(tmp_path.iterdir()) == []


def test_check_finds_weights_that_do_not_belong_to_the_graph(bundle_path: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    lines: list[str] = []
    check(Bundle.open(output), lines.append)
    assert len(lines) == 2
    other = tiny_model("llama", seed=1, vocab_size=VOCABULARY + 7, rms_norm_eps=0.1)
    other.config.save_pretrained(output / "target")
    with pytest.raises(BundleError, match=r"Parity failed \(target, prefill\)"):
        check(Bundle(output, Bundle.open(bundle_path).manifest), lines.append)


@pytest.mark.parametrize("capacity", [63, POSITIONS + 1, 0, -1])
def test_a_capacity_that_the_models_were_not_made_for_is_refused(
    pair: tuple[Path, Path], tmp_path: Path, capacity: int
) -> None:
    with pytest.raises(UsageError, match=f"A capacity of {capacity} tokens is not possible; it must be 64 to 128"):
        run_build(pair, tmp_path / "bundle", capacity=capacity)
    assert list(tmp_path.iterdir()) == []


def test_a_default_capacity_is_kept_within_reason_and_said(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "LARGEST_DEFAULT_CAPACITY", 100)
    monkeypatch.setattr(preparation, "refuse_unsupported", stop)
    lines: list[str] = []
    with pytest.raises(Stop, match="100"):
        run_build(pair, tmp_path / "bundle", say=lines.append)
    assert lines == ["capacity 100 tokens per text; --capacity allows up to 128"]


class Stop(Exception):
    pass


def stop(config: Any, capacity: int) -> None:
    raise Stop(capacity)


def test_a_pair_without_a_common_tokenizer_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    shutil.copytree(pair[1], draft)
    tokenizer = AutoTokenizer.from_pretrained(draft)
    tokenizer.add_tokens(["<extra>"])  # a token that only the draft has
    tokenizer.save_pretrained(draft)
    with pytest.raises(BundleError, match="do not share a tokenizer; their vocabularies differ"):
        run_build((pair[0], draft), tmp_path / "bundle")


def test_a_model_that_cannot_score_the_tokenizer_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    draft = save_checkpoint(tmp_path / "draft", tiny_model("llama", vocab_size=VOCABULARY - 2, eos_token_id=None))
    with pytest.raises(BundleError, match="The draft scores token ids below 255; the ordinary tokens of its tokenizer"):
        run_build((pair[0], draft), tmp_path / "bundle")


def test_a_draft_that_lacks_tokens_of_its_target_drafts_for_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target, output = tmp_path / "target", tmp_path / "bundle"
    shutil.copytree(pair[0], target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.save_pretrained(target)
    own = {"temperature": 0.6, "top_k": 20, "top_p": 1.0, "num_beams": 2, "eos_token_id": VOCABULARY - 1}
    (target / "generation_config.json").write_text(json.dumps(own))
    _, lines = run_build((target, pair[1]), output)
    assert lines[1:4] == [
        "draft: not made for 2 tokens, such as '<think>' (id 257), which the target has: hardly ever drafted",
        "target: its own sampling is temperature 0.6, top_k 20",
        "target: num_beams of generation_config.json: left out, because spectr has nothing like it",
    ]
    bundle = Bundle.open(output)
    vocabulary = bundle.manifest.vocabulary
    assert (vocabulary.size, vocabulary.substitute) == (VOCABULARY + 2, VOCABULARY - 1)
    assert bundle.manifest.sampling == {"temperature": 0.6, "top_k": 20}
    assert "sampling    temperature 0.6, top_k 20, by the target's generation_config.json" in describe(bundle)
    params = SamplingParams(max_tokens=24, temperature=0, logit_bias=((VOCABULARY, 3.0),), ignore_eos=True)
    requests = [Request("a", "<think>why</think>", params), Request("b", "why", params)]
    texts = []
    for plan in (Plan.plain(), Plan("race", 2, 2)):
        decoder = Decoder(bundle, plan=plan, batch_size=2)
        texts.append({one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)})
    assert texts[0].keys() == {"a", "b"}
    assert all(VOCABULARY in ids for ids in texts[0].values())
    assert texts[0] == texts[1]


def test_a_checkpoint_with_code_of_its_own_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "target"
    shutil.copytree(pair[0], target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(
        json.dumps({**config, "model_type": "own", "auto_map": {"AutoConfig": "own.Own"}})
    )
    (target / "own.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BundleError, match="transformers cannot read") as caught:
        run_build((target, pair[1]), tmp_path / "bundle")
    assert "runs no code from a checkpoint" in caught.value.hint


def test_a_checkpoint_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    save_model(model, tmp_path)
    model.config.num_hidden_layers = 3
    model.config.save_pretrained(tmp_path)
    with pytest.raises(BundleError, match=r"lacks 9 weights of its architecture, among them model\.layers\.2\."):
        load_original(tmp_path)


def test_without_onnxruntime_the_build_says_what_to_install(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(EngineError, match="onnxruntime is needed to build a bundle") as caught:
        run_build(pair, tmp_path / "bundle")
    assert "pip install 'spectr[cpu]'" in caught.value.hint


def test_sizes_are_measured_on_the_model() -> None:
    spec = measure_spec(tiny_model("gpt2", num_hidden_layers=3))
    assert (spec.architecture, spec.layers, spec.kv_heads, spec.head_size) == ("gpt2", 3, 4, 8)
    assert (spec.vocabulary, spec.max_positions) == (VOCABULARY, POSITIONS)


def test_layers_with_caches_of_different_shapes_are_refused() -> None:
    model = tiny_model(
        "deepseek_v3",
        num_key_value_heads=4,
        kv_lora_rank=8,
        q_lora_rank=8,
        qk_rope_head_dim=4,
        qk_nope_head_dim=4,
        v_head_dim=6,
    )
    with pytest.raises(BundleError, match="keeps keys and values of 2 shapes"):
        measure_spec(model)
