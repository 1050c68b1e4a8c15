"""``examples/train_head.py`` trains a head that learns, and that ``spectr-export build`` takes for the same target."""

# D depths, B rows, T tokens, C places that drafts begin at, N tokens that the head scores, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from scripts import ROOT, load_script
from tiny_heads import LAYERS, SIZE, target_checkpoint
from tiny_models import VOCABULARY, byte_tokenizer, save_checkpoint, tiny_model
from transformers import AutoModelForCausalLM

from spectr_export.build import build
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle
from spectr_runtime.adapter.model import entering

TEXT = "def read(path):\n    return path.read_text(encoding='utf-8')\n" * 40
Train = Callable[..., Result]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with a short text and few steps."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    module = load_script("examples/train_head.py")
    module.corpus_files = lambda folder: ([TEXT], [TEXT])
    module.read = lambda texts: texts
    module.SCHEDULE = module.Schedule(steps=30, batch=2, learning_rate=5e-3)
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
    assert all(last < first - 0.2 for first, last in zip(first_losses, last_losses, strict=True))
    assert all(last > first + 0.05 for first, last in zip(first_shares, last_shares, strict=True))
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


@torch.inference_mode()
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
    read = []
    for model, tensors in ((source, narrow), (padded, wide)):
        with entering(model, LAYERS) as states:
            model(ids_BT)
        read.append(torch.cat([states[layer] for layer in LAYERS], -1) @ tensors["fc.weight"].T)
    torch.testing.assert_close(read[0], read[1], atol=1e-4, rtol=1e-4)
    assert read[0].std() > 0.1
    build(
        BuildOptions(str(save_checkpoint(tmp_path / "padded", padded)), str(tmp_path / "head")), tmp_path / "b", say=str
    )


def test_drafts_see_the_text_up_to_their_place_and_themselves(script: ModuleType, target: Path) -> None:
    """The logits of one place are those of a text that ends there, and change with its own tokens alone."""
    model: Any = AutoModelForCausalLM.from_pretrained(target)
    head = script.make_head(model, torch.arange(40))
    ids_1T = torch.randint(256, (1, 20), generator=torch.Generator().manual_seed(5))

    def logits(ids_1T: torch.Tensor) -> torch.Tensor:
        features_1TF, _law_1TN = script.ask(model, head, ids_1T, torch.arange(40))
        return torch.stack([each_1CN[0].detach() for each_1CN in script.unroll(head, ids_1T, features_1TF)])

    whole_DCN, place = logits(ids_1T), 6
    for depth in range(script.DEPTHS):
        changed_1T = ids_1T.clone()
        changed_1T[0, place + depth + 2 :] = 3
        short_DCN = logits(changed_1T)
        torch.testing.assert_close(short_DCN[depth, place], whole_DCN[depth, place], atol=1e-5, rtol=1e-5)
        changed_1T[0, place + depth + 1] = 3
        assert (logits(changed_1T)[depth, place] - whole_DCN[depth, place]).abs().max() > 0.01


def test_what_it_cannot_train_for_is_refused(train: Train, tmp_path: Path) -> None:
    assert "it must be at least the target's, 32" in train("--hidden", 16).output
    save_checkpoint(tmp_path / "target", tiny_model("gpt_neox"))
    result = train()
    assert result.exit_code == 1
    assert "GPTNeoXForCausalLM" in result.output
    assert not (tmp_path / "head").exists()
