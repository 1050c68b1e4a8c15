"""Heads of EAGLE-3 become drafts of bundles: built, compared with PyTorch, looked at, and refused where they misfit."""

# B rows, T tokens fed, V vocabulary, F width of the features.
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import rtx
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from tiny_heads import (
    LAYERS,
    LOGITS,
    SIZE,
    head_tensors,
    layer_settings,
    original_names,
    original_settings,
    save_head,
    speculators_settings,
    target_checkpoint,
)
from tiny_models import VOCABULARY, save_checkpoint, tiny_config, tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from spectr_export.build import build, check
from spectr_export.checks import states as states_module
from spectr_export.checks.acceptance import measure_acceptance, measure_head
from spectr_export.cli import main
from spectr_export.heads.fit import shapes
from spectr_export.heads.member import load_plain_head
from spectr_export.original.model import load_original
from spectr_export.original.scratch import open_scratch
from spectr_export.preparation import BuildOptions, Prepared, prepare
from spectr_export.storing.precision import Precision
from spectr_runtime import Bundle, BundleError, EngineError, UsageError
from spectr_runtime.adapter.eagle3 import Eagle3Head
from spectr_runtime.adapter.eagle3 import Settings as HeadSettings
from spectr_runtime.bundle import Features, Head, Vocabulary
from spectr_runtime.bundle.tokens import read_tokens
from spectr_runtime.contract import Call, HeadInputs
from spectr_runtime.engines import open_engine

FAMILIES = ("llama", "qwen3", "mistral")
Settings = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def quiet(line: str) -> None:
    """Take a line of progress."""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return target_checkpoint(tmp_path_factory.mktemp("heads") / "target")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_head(tmp_path_factory.mktemp("heads") / "head", speculators_settings(), head_tensors())


@pytest.fixture(scope="module")
def built(target: Path, head: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with a head; a test that changes it copies it first."""
    output = tmp_path_factory.mktemp("heads") / "head.bundle"
    build(BuildOptions(str(target), str(head)), output, say=quiet)
    return Bundle.open(output)


def prepared(target: Path, head: Path, **options: Any) -> Prepared:
    with open_scratch() as scratch:
        return prepare(BuildOptions(str(target), str(head), **options), scratch, quiet)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_builds_and_passes_parity_on_targets_of_every_family(family: str, tmp_path: Path) -> None:
    layer = "qwen3" if family == "qwen3" else "llama"
    target = target_checkpoint(tmp_path / "target", family)
    head = save_head(tmp_path / "head", speculators_settings(layer), head_tensors(layer))
    found = build(BuildOptions(str(target), str(head)), tmp_path / "out.bundle", say=quiet).manifest
    assert found.models["target"].features == Features(LAYERS, len(LAYERS) * SIZE)
    assert found.models["draft"].head == Head("eagle3", len(LAYERS) * SIZE, SIZE)
    assert found.models["draft"].vocabulary == LOGITS
    assert found.vocabulary.size == VOCABULARY
    assert max(max(stages.values()) for stages in found.parity.values()) < 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_head_in_half_precision_in_the_original_layout(dtype: str, target: Path, tmp_path: Path) -> None:
    head = save_head(tmp_path / "head", original_settings(), original_names(head_tensors()), pickled=True)
    options = BuildOptions(str(target), str(head), precision=Precision(dtype, "none"))
    found = build(options, tmp_path / "out.bundle", say=quiet).manifest
    assert found.models["draft"].dtype == dtype
    assert found.models["draft"].states == SIZE
    assert "half" in found.quality["draft"]


def test_a_quantised_target_has_a_head_that_is_not(target: Path, head: Path, tmp_path: Path) -> None:
    options = BuildOptions(str(target), str(head), precision=Precision("float32", "int4"))
    models = build(options, tmp_path / "out.bundle", say=quiet).manifest.models
    assert (models["target"].quantisation, models["draft"].quantisation) == ("int4", "none")


def test_the_head_takes_the_embeddings_of_the_target_and_scores_chosen_tokens(built: Bundle, target: Path) -> None:
    draft = load_file(built.model("draft") / "model.safetensors")
    (embedding,) = (tensor for name, tensor in load_file(target / "model.safetensors").items() if "embed" in name)
    assert torch.equal(draft["embed_tokens.weight"], embedding)
    tokens_N = read_tokens(built)
    assert tokens_N is not None
    assert tokens_N.tolist() == list(range(VOCABULARY - LOGITS, VOCABULARY))


def test_a_head_with_embeddings_of_its_own_keeps_them(target: Path, tmp_path: Path) -> None:
    own = torch.randn(VOCABULARY, SIZE)
    head = save_head(tmp_path / "head", speculators_settings(), {**head_tensors(), "embed_tokens.weight": own})
    build(BuildOptions(str(target), str(head)), tmp_path / "out.bundle", say=quiet)
    assert torch.equal(load_file(tmp_path / "out.bundle" / "draft" / "model.safetensors")["embed_tokens.weight"], own)


def test_a_narrower_head_has_embeddings_of_its_own(target: Path, tmp_path: Path) -> None:
    layer = {**layer_settings(), "hidden_size": 16}
    settings = HeadSettings(LOGITS, LAYERS, len(LAYERS) * SIZE, fc_norm=True)
    made = {
        name: torch.rand(shape) + 0.5 * (len(shape) == 1)
        for name, shape in shapes(AutoConfig.for_model(**layer), settings).items()
    }
    tensors = {**made, **{name: head_tensors()[name] for name in ("d2t", "t2d")}}
    head = speculators_settings(transformer_layer_config=layer, norm_before_residual=False, fc_norm=True)
    options = BuildOptions(str(target), str(save_head(tmp_path / "head", head, tensors)))
    spec = build(options, tmp_path / "out.bundle", say=quiet).manifest.models["draft"]
    assert spec.head == Head("eagle3", len(LAYERS) * SIZE, 16)


def test_a_head_of_the_first_tokens_names_none(target: Path, tmp_path: Path) -> None:
    tensors = {**without(head_tensors(), "t2d"), "d2t": torch.zeros(LOGITS, dtype=torch.int64)}
    found = prepared(target, save_head(tmp_path / "head", speculators_settings(), tensors))
    assert found.head is not None
    assert found.head.checkpoint.tokens_N is None


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_engines_give_out_features_and_states(backend: Any, built: Bundle) -> None:
    sizes: dict[str, Any] = {"backend": backend, "device": "cpu", "rows": 1, "capacity": 64}
    target, draft = (open_engine(built, role, **sizes) for role in ("target", "draft"))
    call = Call(
        input_ids_BT=torch.tensor([[3, 1, 4, 1, 5]]),
        position_ids_BT=torch.arange(5)[None],
        attention_mask_B1TL=torch.ones((5, 5), dtype=torch.bool).tril()[None, None],
        write_index_B=torch.tensor([0]),
        logit_index_BM=torch.tensor([[4]]),
    )
    logits_BMV, features_BTF = target.run(call)
    assert features_BTF is not None
    assert (logits_BMV.shape, features_BTF.shape) == ((1, 1, VOCABULARY), (1, 5, len(LAYERS) * SIZE))
    features_BTF, logits_BMV = features_BTF.clone(), logits_BMV.clone()
    assert torch.equal(target.forward(call), logits_BMV)
    inputs = HeadInputs(features_BTF, torch.zeros(1, 5, SIZE), torch.zeros((1, 5), dtype=torch.bool))
    logits_BMN, states_BTH = draft.run(dataclasses.replace(call, head=inputs))
    assert states_BTH is not None
    assert (logits_BMN.shape, states_BTH.shape) == ((1, 1, LOGITS), (1, 5, SIZE))
    with pytest.raises(EngineError, match="a head of kind eagle3; the call has no states"):
        draft.forward(call)
    with pytest.raises(EngineError, match="a model of its own; the call has states"):
        target.forward(dataclasses.replace(call, head=inputs))
    with pytest.raises(EngineError, match=r"features is \(1, 5, 95\)"):
        draft.forward(dataclasses.replace(call, head=dataclasses.replace(inputs, features_BTF=features_BTF[..., 1:])))


def test_the_features_are_the_hidden_states_of_transformers(built: Bundle, target: Path) -> None:
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    with torch.inference_mode():
        entering = model(ids, output_hidden_states=True).hidden_states
    engine = open_engine(built, "target", backend="torch", device="cpu", rows=1, capacity=64)
    mask = torch.ones((5, 5), dtype=torch.bool).tril()[None, None]
    _, features_BTF = engine.run(Call(ids, torch.arange(5)[None], mask, torch.tensor([0]), torch.tensor([[4]])))
    assert features_BTF is not None
    first, second, last = features_BTF.chunk(3, -1)
    torch.testing.assert_close(first, entering[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(second, entering[2], atol=1e-4, rtol=1e-4)
    # transformers' last hidden state is normalised, that of the features is not yet.
    torch.testing.assert_close(model.model.norm(last), entering[4], atol=1e-4, rtol=1e-4)


def test_layers_that_are_not_named_are_those_of_the_paper(tmp_path: Path) -> None:
    target = target_checkpoint(tmp_path / "target", num_hidden_layers=8)
    settings = speculators_settings(eagle_aux_hidden_state_layer_ids=None)
    found = prepared(target, save_head(tmp_path / "head", settings, head_tensors()))
    assert found.head is not None
    assert found.head.settings.layers == (2, 4, 5)


def test_a_bundle_without_a_head_says_nothing_of_heads(bundle_path: Path) -> None:
    manifest = json.loads((bundle_path / "spectr.json").read_text(encoding="utf-8"))
    sizes = {"architecture", "layers", "kv_heads", "head_size", "vocabulary", "max_positions", "dtype", "quantisation"}
    assert [model.keys() for model in manifest["models"].values()] == [sizes, sizes]
    assert not [name for name in manifest["files"] if "tokens" in name and name.startswith(("draft", "target"))]


@pytest.mark.parametrize("part", ["target", "draft"])
def test_a_wrong_state_fails_the_comparison(part: str, built: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    score = Eagle3Head.score

    def of_other_layers(self: Any, model: Any, features: Features) -> None:
        self._model, self._layers = model, (1, 3, 4)

    def with_other_states(*args: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits_BTN, states_BTH = score(*args, **options)
        return logits_BTN, 2 * states_BTH

    if part == "target":
        monkeypatch.setattr(states_module.WholeModel, "__init__", of_other_layers)
    else:
        monkeypatch.setattr(Eagle3Head, "score", with_other_states)
    with pytest.raises(BundleError, match=f"Parity failed \\({part}, prefill"):
        check(built, quiet)


def without(tensors: Tensors, *names: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


MISFITS: Mapping[str, tuple[Settings, Tensors, str]] = {
    "another algorithm": (
        speculators_settings(speculators_config={"algorithm": "dflash"}),
        head_tensors(),
        "algorithm as 'dflash'; spectr serves eagle3",
    ),
    "another kind": (speculators_settings(speculators_model_type="mtp"), head_tensors(), "as 'mtp'"),
    "the first EAGLE": (
        {**layer_settings(), "architectures": ["EagleLlamaForCausalLM"]},
        head_tensors(),
        "no head of EAGLE-3",
    ),
    "no features": (
        original_settings(eagle_config={"use_aux_hidden_state": False}),
        head_tensors(),
        "use_aux_hidden_state as false",
    ),
    "another family": (
        speculators_settings(transformer_layer_config={**layer_settings(), "model_type": "gpt2"}),
        head_tensors(),
        "of type 'gpt2'; spectr serves llama and qwen3",
    ),
    "two layers": (
        speculators_settings(transformer_layer_config={**layer_settings(), "num_hidden_layers": 2}),
        head_tensors(),
        "has 2 layers",
    ),
    "another hidden size": (
        speculators_settings(transformer_layer_config={**layer_settings(), "hidden_size": 64}),
        head_tensors(),
        "hidden size is 64 and the target's 32",
    ),
    "another vocabulary": (
        speculators_settings(transformer_layer_config=layer_settings(vocabulary=VOCABULARY + 1)),
        without(head_tensors(), "t2d"),
        f"vocabulary of {VOCABULARY + 1} tokens; the target's has {VOCABULARY}",
    ),
    "layers out of range": (
        speculators_settings(eagle_aux_hidden_state_layer_ids=[1, 2, 5]),
        head_tensors(),
        "names the layers 1, 2, 5 of its target; the target has 4 layers",
    ),
    "a layer twice": (
        speculators_settings(eagle_aux_hidden_state_layer_ids=[1, 1, 2]),
        head_tensors(),
        "must be different ones from 0 to 4",
    ),
    "no layers of a shallow target": (
        speculators_settings(eagle_aux_hidden_state_layer_ids=None),
        head_tensors(),
        "names no layers, so it reads the layers 2, 2, 1",
    ),
    "fewer layers than weights": (
        speculators_settings(eagle_aux_hidden_state_layer_ids=[1, 2]),
        head_tensors(),
        r"fc.weight is \(32, 96\); by the head's config.json and its target it is \(32, 64\)",
    ),
    "a weight too few": (speculators_settings(), without(head_tensors(), "norm.weight"), "has no norm.weight"),
    "a weight too many": (
        speculators_settings(),
        {**head_tensors(), "layers.1.mlp.up_proj.weight": torch.ones(2, 2)},
        "has layers.1.mlp.up_proj.weight, which such a head has not",
    ),
    "a norm too few": (speculators_settings(fc_norm=True), head_tensors(), "has no fc_norm.0.weight"),
    "no mapping": (speculators_settings(), without(head_tensors(), "d2t"), "has no d2t"),
    "a mapping of another length": (
        speculators_settings(),
        {**head_tensors(), "d2t": torch.zeros(3, dtype=torch.int64)},
        "d2t is .3,. torch.int64; it must be 200 whole numbers",
    ),
    "tokens beyond the target": (
        speculators_settings(),
        {**without(head_tensors(), "t2d"), "d2t": torch.full((LOGITS,), VOCABULARY)},
        f"from {VOCABULARY} to",
    ),
    "one token twice": (
        speculators_settings(),
        {**without(head_tensors(), "t2d"), "d2t": torch.tensor([1] + [0] * (LOGITS - 1))},
        "199 of them different",
    ),
    "two mappings that differ": (
        speculators_settings(),
        {**head_tensors(), "d2t": torch.zeros(LOGITS, dtype=torch.int64)},
        "t2d names other tokens than d2t",
    ),
    "more logits than tokens": (
        speculators_settings(draft_vocab_size=VOCABULARY + 1),
        head_tensors(),
        f"must be from 1 to vocab_size, {VOCABULARY}",
    ),
    "layers that are no list": (
        speculators_settings(eagle_aux_hidden_state_layer_ids="2"),
        head_tensors(),
        "must be a list of layers",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_head_that_does_not_fit_is_refused(misfit: str, target: Path, tmp_path: Path) -> None:
    settings, tensors, message = MISFITS[misfit]
    with pytest.raises(BundleError, match=message) as refused:
        prepared(target, save_head(tmp_path / "head", settings, tensors))
    assert refused.value.hint


def test_a_pickle_file_with_more_than_tensors_is_refused(target: Path, tmp_path: Path) -> None:
    head = save_head(tmp_path / "head", original_settings(), {}, pickled=True)
    torch.save({"fc.weight": tiny_config("llama")}, head / "pytorch_model.bin")
    with pytest.raises(BundleError, match="cannot be read as tensors alone"):
        prepared(target, head)
    (head / "pytorch_model.bin").unlink()
    with pytest.raises(BundleError, match="has neither"):
        prepared(target, head)


def test_the_configuration_of_a_head_is_not_overridden(target: Path, head: Path) -> None:
    with pytest.raises(UsageError, match="the draft is a head"):
        prepared(target, head, config=["draft.rope_theta=1e5"])
    found = prepared(target, head, config=["rope_theta=100000.0"])
    assert found.overrides == {"target": {"rope_theta": 100000.0}}


def test_a_short_head_does_not_shorten_the_texts(target: Path, tmp_path: Path) -> None:
    layer = {**layer_settings(), "max_position_embeddings": 16}
    head = save_head(tmp_path / "head", speculators_settings(transformer_layer_config=layer), head_tensors())
    assert prepared(target, head).limits.capacity == 128


def test_the_command_line_tells_of_heads(built: Bundle, target: Path, head: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    dry = runner.invoke(main, ["build", str(target), "--draft", str(head), "-o", str(tmp_path / "x"), "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert (
        "a head of EAGLE-3 on layers 1, 2, 4 of the target, 0.0 M parameters, 200 logits, float32: 0.1 MB" in dry.output
    )
    page = runner.invoke(main, ["inspect", str(built.path)]).output
    assert "gives out what enters layers 1, 2, 4" in page
    assert "a head of kind eagle3 on the target" in page
    checked = runner.invoke(main, ["check", str(built.path)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensorrt_rtx_builds_a_head_and_a_target_with_features(dtype: str, target: Path, tmp_path: Path) -> None:
    head = save_head(tmp_path / "head", speculators_settings(), head_tensors())
    options = BuildOptions(str(target), str(head), precision=Precision(dtype, "none"))
    build(options, tmp_path / "out.bundle", say=quiet)
    for role in ("draft", "target"):
        built = rtx.build(tmp_path / "out.bundle" / role)
        assert built.layers.count(f"Datatype: {rtx.HALVES[dtype]},") > 10
        assert "states" in built.layers


def test_the_acceptance_of_a_head_is_that_of_its_first_token(built: Bundle, target: Path) -> None:
    """The same sum over the engines of the bundle, fed as in decoding, token by token."""
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    count = len(ids) - 1
    model, head = load_original(built.model("target")), load_plain_head(built.model("draft"))
    tokens_N = read_tokens(built)
    assert tokens_N is not None
    sizes: dict[str, Any] = {"backend": "onnxruntime", "device": "cpu", "rows": 1, "capacity": 64}
    first, second = (open_engine(built, role, **sizes) for role in ("target", "draft"))

    def call(tokens: list[int], **more: Any) -> Call:
        mask = torch.ones((len(tokens), len(tokens)), dtype=torch.bool).tril()[None, None]
        columns = torch.arange(len(tokens))[None]
        return Call(torch.tensor([tokens]), columns, mask, torch.tensor([0]), columns, **more)

    logits_1TV, features_1TF = first.run(call(ids))
    assert features_1TF is not None
    own_1T = torch.zeros((1, count), dtype=torch.bool)
    inputs = HeadInputs(features_1TF[:, :-1], torch.zeros(1, count, SIZE), own_1T)
    drafted_TN = second.forward(call(ids[1:], head=inputs))[0].softmax(-1)
    expected = torch.minimum(logits_1TV[0, 1:].softmax(-1)[:, tokens_N], drafted_TN).sum(-1).mean()
    assert measure_head(model, head, ids, tokens_N) == pytest.approx(float(expected), abs=1e-5)
    assert 0 < expected < 0.9
    assert built.manifest.acceptance is not None


def chosen_pair(folder: Path) -> tuple[Path, Path]:
    """A target, and a model of its own that has every second of its tokens, under ids of its own."""
    target = target_checkpoint(folder / "target")
    tokens_N = torch.arange(0, VOCABULARY, 2)
    model = tiny_model("llama", seed=2, vocab_size=len(tokens_N), num_hidden_layers=1, eos_token_id=len(tokens_N) - 1)
    draft = save_checkpoint(folder / "draft", model)
    tensors = load_file(draft / "model.safetensors")
    offsets_N = tokens_N - torch.arange(len(tokens_N))
    save_file({**tensors, "d2t": offsets_N}, draft / "model.safetensors", metadata={"format": "pt"})
    return target, draft


def test_a_model_of_its_own_may_score_chosen_tokens(tmp_path: Path) -> None:
    target, draft = chosen_pair(tmp_path)
    lines: list[str] = []
    build(BuildOptions(str(target), str(draft)), tmp_path / "out.bundle", say=lines.append)
    bundle = Bundle.open(tmp_path / "out.bundle")
    tokens_N = read_tokens(bundle)
    assert tokens_N is not None
    assert tokens_N.tolist() == list(range(0, VOCABULARY, 2))
    # The end token is the last of both.
    assert bundle.manifest.vocabulary == Vocabulary(VOCABULARY, (VOCABULARY - 1,), VOCABULARY // 2)
    assert any(line.startswith("draft: not made for 128 tokens") for line in lines)
    models = [load_original(bundle.model(role)) for role in ("target", "draft")]
    ids = [2, 4, 5, 8, 6]
    with torch.inference_mode():
        laws = [
            model(torch.tensor([own])).logits.softmax(-1)[0]
            for model, own in zip(models, (ids, [1, 2, 9, 4, 3]), strict=True)
        ]
    expected = torch.minimum(laws[0][:, tokens_N], laws[1]).sum(-1).mean()
    assert measure_acceptance(*models, ids, tokens_N, 9) == pytest.approx(float(expected), abs=1e-5)


def test_a_model_without_names_of_its_tokens_is_refused_as_before(tmp_path: Path) -> None:
    target, draft = chosen_pair(tmp_path)
    tensors = load_file(draft / "model.safetensors")
    save_file(without(tensors, "d2t"), draft / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match="The draft scores token ids below 129"):
        prepared(target, draft)
    offsets = torch.full((129,), VOCABULARY)
    save_file({**tensors, "d2t": offsets}, draft / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match="each for another of the target's 257 tokens"):
        prepared(target, draft)
