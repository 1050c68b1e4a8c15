from __future__ import annotations

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors
from huggingface_hub.utils._paths import filter_repo_objects

from spectr_export.original import source as source_module
from spectr_export.original.scratch import open_scratch
from spectr_runtime import BundleError, SpectrError, UsageError

EMPTY = struct.pack("<Q", 2) + b"{}"  # a safetensors file without a tensor


def take(source: str) -> Path:
    with open_scratch() as scratch:
        return source_module.fetch(source, scratch, say=lambda line: None)


def checkpoint(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(EMPTY if name.endswith(".safetensors") else b"{}")
    return folder


def test_a_folder_with_safetensors_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, "config.json", "model.safetensors", "pytorch_model.bin")
    assert take(str(folder)) == folder


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no config\.json"):
        take(str(checkpoint(tmp_path, "model.safetensors")))


@pytest.mark.parametrize(
    "names", [(), ("config.json", "adapter_model.safetensors"), ("config.json", "model.safetensors")]
)
def test_an_adapter_is_refused_with_the_name_of_its_model(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = checkpoint(tmp_path, *names)
    settings = {"peft_type": "LORA", "base_model_name_or_path": "owner/base", "r": 8}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(BundleError) as caught:
        take(str(folder))
    assert caught.value.message == (
        f"{folder} holds an adapter (LORA) for owner/base, not a model of its own: it has adapter_config.json."
    )
    assert "what merge_and_unload() returns, and the tokenizer, with save_pretrained." in caught.value.hint
    assert ("is the merged model already" in caught.value.hint) == ("model.safetensors" in names)


@pytest.mark.parametrize("source", ["/no/such/folder", "./missing", "a/b/c", "", "what is this"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(source: str) -> None:
    with pytest.raises(UsageError, match="neither a folder nor a GGUF file nor a hub id"):
        take(source)


def test_a_hub_id_is_downloaded_without_pickles_and_other_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(checkpoint(tmp_path, "config.json", "model.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert take("owner/name-1.5B") == tmp_path
    assert asked["repository"] == "owner/name-1.5B"
    assert asked["revision"] is None
    assert take("owner/name@refs/pr/7") == tmp_path
    assert (asked["repository"], asked["revision"]) == ("owner/name", "refs/pr/7")
    kept = filter_repo_objects(
        [
            "config.json",
            "model-00001-of-00002.safetensors",
            "tokenizer.model",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/model.json",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == ["config.json", "model-00001-of-00002.safetensors", "tokenizer.model"]


RESPONSE: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.LocalEntryNotFoundError("no network"), SpectrError, "the hub cannot be reached and its cache does not"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), UsageError, "the hub has no such repository"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), UsageError, "has no branch, tag or commit 'v9'"),
        (errors.GatedRepoError("403", response=RESPONSE), SpectrError, "is gated on the hub"),
        (errors.HfHubHTTPError("500 oops\nmore", response=RESPONSE), SpectrError, r"did not give .*: 500 oops Try"),
        (TimeoutError("read timed out"), SpectrError, "did not give .*: read timed out Try again later"),
    ],
)
def test_errors_of_the_hub_are_told_in_our_words(
    monkeypatch: pytest.MonkeyPatch, error: Any, kind: type[SpectrError], message: str
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(kind, match=message) as caught:
        take("owner/name@v9")
    assert type(caught.value) is kind
    assert "owner/name" in caught.value.message


def test_several_gguf_files_must_be_told_apart(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, *(f"{letter}.gguf" for letter in "abcd"))
    with pytest.raises(UsageError) as caught:
        take(str(folder))
    assert caught.value.message == f"{folder} holds 4 GGUF files: a.gguf, b.gguf, c.gguf and more."


def test_a_gguf_file_of_the_hub_is_downloaded_with_what_belongs_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(checkpoint(tmp_path, "config.json", "tiny.gguf"))

    unpacked: list[Path] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(source_module, "unpack", lambda path, folder, say: unpacked.append(path))
    take("owner/name-GGUF/tiny.gguf@v1")
    assert unpacked == [tmp_path / "tiny.gguf"]
    assert (asked["repository"], asked["revision"]) == ("owner/name-GGUF", "v1")
    wanted = ["tiny.gguf", "config.json", "tokenizer.json", "other.gguf", "model.safetensors"]
    taken = filter_repo_objects(
        wanted, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(taken) == wanted[:3]


def test_a_gguf_file_that_the_hub_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repository, **options: str(tmp_path))
    with pytest.raises(UsageError) as caught:
        take("owner/name/tiny.gguf")
    assert caught.value.message == "owner/name has no file tiny.gguf on the hub."
