"""``examples/train_head.py`` trains a head that learns, and that ``spectr-export build`` takes for the same target."""

# B rows, T tokens, C places that drafts begin at, N tokens that the head scores, E hidden size, F width of the
# features, V vocabulary.
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from scripts import ROOT, load_script
from tiny_heads import SIZE, target_checkpoint
from tiny_models import VOCABULARY, byte_tokenizer, save_checkpoint, tiny_model
from transformers import AutoModelForCausalLM, DynamicCache

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle
from spectr_runtime.adapter.model import entering

# Most bytes, so that most of the law of a target with random weights is on tokens that the head scores; one is rare.
TEXT = "".join(map(chr, range(33, 1024))) * 2 + " "
Train = Callable[..., Result]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a short text and few steps."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = load_script("examples/train_head.py")
    module.corpus_files = lambda folder: ([TEXT], [TEXT])
    module.read = lambda texts: texts
    module.SCHEDULE = module.Schedule(steps=40, batch=2, learning_rate=1e-2)
    return module


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return target_checkpoint(tmp_path / "target")


@pytest.fixture
def train(script: ModuleType, target: Path, tmp_path: Path) -> Train:
    """Trains a head into the folder ``head``."""

    def run(*options: object) -> Result:
        arguments = [target, tmp_path / "head", *options]
        return CliRunner().invoke(script.main, [str(argument) for argument in arguments])

    return run


def figures(line: str) -> tuple[list[float], list[float]]:
    """Losses and shares of accepted drafts by depth."""
    losses, shares = line.split(": loss ")[1].split(", accepted ")
    return [float(one) for one in losses.split()], [float(one) for one in shares.split()]


def test_a_head_learns_at_every_depth_and_is_built_on_its_target(train: Train, target: Path, tmp_path: Path) -> None:
    result = train()
    assert result.exit_code == 0, result.output
    lines = [figures(line) for line in result.output.splitlines() if ": loss " in line]
    (first_losses, first_shares), (last_losses, last_shares) = lines[0], lines[-1]
    assert len(first_losses) == len(last_shares) == 4
    assert all(last < first - 0.3 for first, last in zip(first_losses, last_losses, strict=True))
    assert all(last > first + 0.08 for first, last in zip(first_shares, last_shares, strict=True))
    build(BuildOptions(str(target), str(tmp_path / "head")), tmp_path / "bundle", say=str)
    spec = Bundle.open(tmp_path / "bundle").manifest.draft
    assert spec is not None
    assert spec.head is not None
    assert (spec.head.kind, spec.head.features) == ("eagle3", 3 * SIZE)


def test_the_head_scores_the_tokens_that_are_frequent_in_the_text(
    train: Train, script: ModuleType, tmp_path: Path
) -> None:
    assert train().exit_code == 0
    tensors = load_file(tmp_path / "head" / "model.safetensors")
    (ids,) = byte_tokenizer()([TEXT])["input_ids"]
    counts = torch.bincount(torch.tensor(ids), minlength=VOCABULARY)
    scored_V = tensors["t2d"]
    assert len(tensors["lm_head.weight"]) == len(tensors["d2t"]) == scored_V.sum() < len(set(ids))
    assert counts[scored_V].min() >= counts[~scored_V].max()
    assert counts[scored_V].sum() >= script.COVERED * len(ids)


def test_a_head_for_a_padded_target_reads_it_as_the_source(
    train: Train, script: ModuleType, target: Path, tmp_path: Path
) -> None:
    script.SCHEDULE = script.Schedule(steps=1, batch=1, learning_rate=0.0)
    assert train().exit_code == 0
    narrow = load_file(tmp_path / "head" / "model.safetensors")
    assert train("--hidden", 128).exit_code == 0
    wide = load_file(tmp_path / "head" / "model.safetensors")
    padding = load_script("examples/pad_target.py")
    source: Any = AutoModelForCausalLM.from_pretrained(target)
    padded = padding.pad(source, padding.widened(source.config, 128, 160, 16, 4))
    ids_BT = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(5))
    layers = json.loads((tmp_path / "head" / "config.json").read_text())["eagle_aux_hidden_state_layer_ids"]
    read = []
    for model, tensors in ((source, narrow), (padded, wide)):
        with torch.no_grad(), entering(model, layers) as states:
            model(ids_BT)
        read.append(torch.cat([states[layer] for layer in layers], -1) @ tensors["fc.weight"].T)
    torch.testing.assert_close(read[0], read[1], atol=1e-4, rtol=1e-4)
    assert read[0].std() > 0.1
    build(
        BuildOptions(str(save_checkpoint(tmp_path / "padded", padded)), str(tmp_path / "head")), tmp_path / "b", say=str
    )


@torch.no_grad()
def test_all_places_at_once_draft_as_one_place_drafts_step_by_step(script: ModuleType, target: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(target)
    chosen_N, place = torch.arange(40), 6
    head = script.make_head(model, chosen_N)
    ids_1T = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(5))
    features_1TF, _law_1TN = script.ask(model, head, ids_1T, chosen_N)
    whole = [logits_1CN[0, place] for logits_1CN in script.unroll(head, ids_1T, features_1TF)]
    # The pair of a token and what is known of the token before it, for all tokens up to the root, which is the next.
    state_1TE, cache, read = head.read(features_1TF[:, : place + 1]), DynamicCache(), 0
    for expected_N in whole:
        fed, seen = state_1TE.shape[1], read + state_1TE.shape[1]
        logits_1TN, state_1TE = head.score(
            ids_1T[:, 1 + read : 1 + seen],
            state_1TE,
            torch.arange(read, seen)[None],
            attention_mask=torch.ones((1, 1, fed, seen), dtype=torch.bool).tril(read),
            past_key_values=cache,
        )
        torch.testing.assert_close(logits_1TN[0, -1], expected_N, atol=1e-5, rtol=1e-5)
        state_1TE, read = state_1TE[:, -1:], seen
    assert len(whole) == script.DEPTHS
    assert torch.stack(whole).std(0).min() > 0.01


def test_what_it_cannot_train_for_is_refused(train: Train, tmp_path: Path) -> None:
    assert "it must be at least the target's, 32" in train("--hidden", 16).output
    save_checkpoint(tmp_path / "target", tiny_model("gpt_neox"))
    result = train()
    assert result.exit_code == 1
    assert "GPTNeoXForCausalLM" in result.output
    assert not (tmp_path / "head").exists()
