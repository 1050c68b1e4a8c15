"""Opening bundles, and the refusals with their words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from spectr_runtime import Bundle, BundleError, Manifest, ModelSpec
from spectr_runtime.bundle import Limits, Vocabulary
from spectr_runtime.files import file_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a bundle whose only file is not a model."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "config.json").write_text("{}")
    spec = ModelSpec("llama", 2, 1, 8, 64, 128)
    manifest = Manifest(
        models={"draft": spec, "target": spec},
        vocabulary=Vocabulary(64, (0, 3)),
        limits=Limits(128, 32),
        files={"target/config.json": file_sha256(tmp_path / "target" / "config.json")},
        versions={"spectr": "0"},
        parity={"draft": {"largest_difference": 0.0}, "target": {"largest_difference": 0.0}},
    )
    (tmp_path / "spectr.json").write_text(json.dumps(manifest.to_json()))
    return tmp_path


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert caught.value.exit_code == 42
    return str(caught.value)


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "spectr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_manifest_survives_the_disk(folder: Path) -> None:
    manifest = Bundle.open(folder).manifest
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.vocabulary.eos_token_ids == (0, 3)


def test_a_bundle_may_have_no_draft(folder: Path) -> None:
    assert Bundle.open(folder).manifest.roles == ("draft", "target")
    spec = json.loads((folder / "spectr.json").read_text())["models"]["target"]
    rewrite(folder, models={"target": spec}, parity={"target": {"largest_difference": 0.0}})
    manifest = Bundle.open(folder).manifest
    assert (manifest.roles, manifest.has_draft) == (("target",), False)
    assert manifest.to_json()["models"].keys() == manifest.to_json()["parity"].keys() == {"target"}
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    rewrite(folder, vocabulary={"size": 65, "eos_token_ids": [0], "substitute": 0})
    assert "The vocabulary has 65 tokens and 0 as substitute; the target has 64 logits." in refusal(folder)


@pytest.mark.parametrize("listed", [["draft"], ["target", "draft", "judge"], ["target", "judge"]], ids="+".join)
def test_other_models_than_a_target_and_its_draft_are_refused(folder: Path, listed: list[str]) -> None:
    spec = json.loads((folder / "spectr.json").read_text())["models"]["target"]
    rewrite(folder, models=dict.fromkeys(listed, spec), parity={role: {} for role in listed})
    names = ", ".join(sorted(listed))
    assert refusal(folder) == (
        f"The models are {names}, those with figures of parity {names}; both must be draft and target, or target "
        "alone. Build the bundle again."
    )


def test_parity_must_be_of_the_models_that_are_there(folder: Path) -> None:
    spec = json.loads((folder / "spectr.json").read_text())["models"]["target"]
    rewrite(folder, models={"target": spec})
    assert refusal(folder).startswith("The models are target, those with figures of parity draft, target; both must")


def test_a_bundle_without_a_draft_holds_no_files_of_one(folder: Path) -> None:
    spec = json.loads((folder / "spectr.json").read_text())["models"]["target"]
    rewrite(folder, models={"target": spec}, parity={"target": {}})
    (folder / "draft").mkdir()
    (folder / "draft" / "model.onnx").write_bytes(b"")
    assert "draft/model.onnx is in the bundle" in refusal(folder)


def test_a_missing_folder_names_the_command_that_makes_one(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    assert refusal(folder) == (
        f"{folder} is not a bundle: no such folder. "
        f"Make one with `spectr-export build TARGET --draft DRAFT -o {folder}`."
    )


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    assert "no spectr.json in it" in refusal(tmp_path)


def test_an_altered_file_is_refused(folder: Path) -> None:
    (folder / "target" / "config.json").write_text("{ }")
    assert "target/config.json" in refusal(folder)
    assert "SHA-256 differs" in refusal(folder)


def test_a_missing_file_is_refused(folder: Path) -> None:
    (folder / "target" / "config.json").unlink()
    assert "target/config.json is missing" in refusal(folder)


def test_a_path_outside_the_bundle_is_refused(folder: Path) -> None:
    rewrite(folder, files={"../secret": "0"})
    assert "lies outside the bundle" in refusal(folder)


@pytest.mark.parametrize(("field", "known"), [("format_version", 3), ("contract_version", 1)])
def test_an_unknown_version_is_refused(folder: Path, field: str, known: int) -> None:
    rewrite(folder, **{field: 99})
    assert refusal(folder).startswith(f"The bundle's {field} is 99; this spectr reads {known}.")


@pytest.mark.parametrize(
    "changes",
    [
        {"limits": {"capacity": 1}},
        {"models": {}},
        {"vocabulary": {"size": 4}},
        {"limits": {"capacity": 0, "tokens_per_call": 1}},
        {"overrides": []},
        {"overrides": {"target": 1}},
    ],
)
def test_a_malformed_manifest_is_refused(folder: Path, changes: dict[str, object]) -> None:
    rewrite(folder, **changes)
    refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", "\x00"])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    (folder / "spectr.json").write_text(content)
    refusal(folder)
