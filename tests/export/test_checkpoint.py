"""Folders of weights, as people bring them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import VOCABULARY, save_checkpoint, tiny_model

from spectr_export.original.checkpoint import check_weights, weight_files
from spectr_export.original.model import load_stored
from spectr_export.storing.save import save_model
from spectr_runtime import BundleError

EMPTY = struct.pack("<Q", 2) + b"{}"  # a safetensors file without a tensor
INDEX = "model.safetensors.index.json"


def folder_of(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_bytes(EMPTY)
    return folder


def check(folder: Path) -> list[str]:
    lines: list[str] = []
    check_weights(folder, lines.append)
    return lines


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "must have its weights in safetensors; found none."),
        (
            ("pytorch_model.bin",),
            "must have its weights in safetensors; found only pytorch_model.bin, and pickle files can run code.",
        ),
        (
            ("model.fp16.safetensors",),
            "has its weights in model.fp16.safetensors; transformers and spectr read model.safetensors.",
        ),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
            f"has model-00001-of-00002.safetensors, model-00002-of-00002.safetensors and neither model.safetensors nor "
            f"{INDEX}.",
        ),
    ],
)
def test_weights_under_another_name_are_refused(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    folder = folder_of(tmp_path, *names)
    with pytest.raises(BundleError) as caught:
        check(folder)
    assert caught.value.message == f"{folder} {words}"


def test_the_remedy_for_a_variant_is_its_name(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        check(folder_of(tmp_path, "model.fp16.safetensors"))
    assert caught.value.hint == "Rename model.fp16.safetensors to model.safetensors."


def test_one_file_beside_an_index_is_read_and_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "model.safetensors", "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    assert weight_files(folder) == [folder / "model.safetensors"]
    assert check(folder) == [f"{folder}: model.safetensors is read, as by transformers, and not the files of {INDEX}"]


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}, "a"])
def test_an_index_without_files_is_refused(tmp_path: Path, weight_map: Any) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BundleError) as caught:
        check(tmp_path)
    assert caught.value.message == (
        f"{tmp_path / INDEX} gives weight_map as {weight_map!r}; it must be an object with the file of every tensor."
    )


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        store(folder)
    return caught.value


def store(folder: Path) -> None:
    stored = load_stored(folder)
    save_model(stored.model, folder / "built", weights=stored.weights)


def change(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_rows_that_are_not_those_of_the_configuration_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny_model("llama"))
    change(tmp_path, vocab_size=300)
    error = refused(tmp_path)
    assert error.message == (
        f"{tmp_path}: lm_head.weight is ({VOCABULARY}, 32) in the weights; by config.json it is (300, 32)."
    )
    assert error.hint == f"Set vocab_size to {VOCABULARY} in config.json, or get the weights that belong to it."


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny_model("llama"))
    change(tmp_path, intermediate_size=48)
    error = refused(tmp_path)
    assert error.message == (
        f"{tmp_path}: model.layers.0.mlp.down_proj.weight is (32, 40) in the weights; by config.json it is (32, 48)."
    )
    assert error.hint == "Get config.json and the weights from one place: they are of different models."


@pytest.mark.parametrize("base_alone", [True, False])
def test_a_model_without_its_head_is_refused(tmp_path: Path, base_alone: bool) -> None:
    model = tiny_model("llama")
    save_checkpoint(tmp_path, model.model if base_alone else model)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("lm_head.weight", None)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    assert refused(tmp_path).message == (
        f"{tmp_path} has no lm_head.weight, the layer that gives the logits, and its config.json says that the "
        "embedding does not take its place (tie_word_embeddings is false)."
    )


@pytest.mark.parametrize(("value", "kind"), [(torch.nan, "NaN"), (torch.inf, "infinite"), (-torch.inf, "infinite")])
@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_weight_that_is_not_finite_is_refused(tmp_path: Path, name: str, value: float, kind: str) -> None:
    model = tiny_model("llama").bfloat16()
    model.get_parameter(name).data.view(-1)[3] = value
    save_checkpoint(tmp_path, model)
    words = {"NaN": "NaN", "infinite": "infinite numbers"}[kind]
    assert refused(tmp_path).message == f"Weight {name} holds {words}; every weight must be finite."
