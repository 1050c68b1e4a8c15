"""Bundles and checkpoints that nobody should open: each is refused, in words, before anything of it is used.

The bundles are altered whole: their manifests carry the hashes of the altered files, as an attacker's would.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from click.testing import CliRunner, Result
from tiny_models import VOCABULARY, save_checkpoint, tiny_model

from spectr_export.cli import main
from spectr_runtime import Bundle, BundleError
from spectr_runtime.files import file_sha256
from spectr_runtime.rows.text.tokenizer import Tokenizer

GRAPH, WEIGHTS = "target/model.onnx", "target/model.safetensors"


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Path:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    return output


def refusal(bundle: Path) -> str:
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert caught.value.exit_code == 42
    return str(caught.value)


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of a bundle."""
    path = bundle / "spectr.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def replace(bundle: Path, name: str, data: bytes) -> None:
    """Replace a file of a bundle, and its hash in the manifest."""
    (bundle / name).write_bytes(data)
    digest = file_sha256(bundle / name)
    rewrite(bundle, lambda manifest: manifest["files"].update({name: digest}))


def repoint(bundle: Path, **entries: str) -> str:
    """Give the target's first external weight another range of bytes, and return the weight's name."""
    graph = onnx.load(bundle / GRAPH, load_external_data=False)
    tensor = next(tensor for tensor in graph.graph.initializer if tensor.external_data)
    for entry in tensor.external_data:
        entry.value = entries.get(entry.key, entry.value)
    replace(bundle, GRAPH, graph.SerializeToString())
    return str(tensor.name)


MANIFESTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a negative capacity": (
        lambda manifest: manifest["limits"].update(capacity=-1),
        "Limits.capacity is -1; it must be a whole number",
    ),
    "a text for a number": (
        lambda manifest: manifest["limits"].update(tokens_per_call="256"),
        "Limits.tokens_per_call is '256'",
    ),
    "a truth value for a number": (
        lambda manifest: manifest["models"]["draft"].update(layers=True),
        "ModelSpec.layers is True",
    ),
    "a fraction for a number": (
        lambda manifest: manifest["models"]["draft"].update(head_size=8.0),
        "ModelSpec.head_size is 8.0",
    ),
    "a number that no tensor holds": (
        lambda manifest: manifest["models"]["target"].update(vocabulary=10**30),
        "ModelSpec.vocabulary is 1000",
    ),
    "no heads": (lambda manifest: manifest["models"]["target"].update(kv_heads=0), "ModelSpec.kv_heads is 0"),
    "an unknown type": (
        lambda manifest: manifest["models"]["target"].update(dtype="float4"),
        "A model's dtype is 'float4'; it must be one of float32, float16, bfloat16",
    ),
    "an unknown field": (lambda manifest: manifest["models"]["target"].update(run="rm"), "malformed"),
    "a model that is no object": (lambda manifest: manifest["models"].update(target=[1]), "malformed"),
    "no target": (lambda manifest: manifest["models"].pop("target"), "The models are draft, those with figures of"),
    "no draft, but its files": (lambda manifest: manifest["models"].pop("draft"), "The models are target, those with"),
    "end tokens that are texts": (lambda manifest: manifest["vocabulary"].update(eos_token_ids="ab"), "malformed"),
    "an end token outside": (
        lambda manifest: manifest["vocabulary"].update(eos_token_ids=[-1]),
        r"End tokens \[-1\] lie outside",
    ),
    "a vocabulary beyond the target's logits": (
        lambda manifest: manifest["vocabulary"].update(size=265),
        "The vocabulary has 265 tokens and 256 as substitute; the target has 264 logits, the draft 257.",
    ),
    "a substitute that the draft does not know": (
        lambda manifest: manifest["vocabulary"].update(size=264, substitute=257),
        "The vocabulary has 264 tokens and 257 as substitute",
    ),
    "sampling that is no object": (lambda manifest: manifest.update(sampling=[]), "sampling is .* an object"),
    "files that are no object": (lambda manifest: manifest.update(files=["spectr.json"]), "files is .* an object"),
    "a hash that is no text": (lambda manifest: manifest["files"].update({GRAPH: 7}), "of a wrong type"),
    "versions that are no texts": (lambda manifest: manifest["versions"].update(torch=None), "of a wrong type"),
    "parity that is no number": (lambda manifest: manifest["parity"]["draft"].update(tree="0"), "of a wrong type"),
    "no parity of the draft": (lambda manifest: manifest["parity"].pop("draft"), "with figures of parity target"),
    "a path that leaves the bundle": (
        lambda manifest: manifest["files"].update({"../secret": "0"}),
        "names '../secret', which lies outside the bundle",
    ),
    "an absolute path": (
        lambda manifest: manifest["files"].update({"/etc/hostname": "0"}),
        "names '/etc/hostname', which lies outside the bundle",
    ),
    "a folder for a file": (lambda manifest: manifest["files"].update({"target": "0"}), "target is missing"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_an_altered_manifest_is_refused(bundle: Path, what: str) -> None:
    change, words = MANIFESTS[what]
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=words):
        Bundle.open(bundle)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format_version": ' + "1" * 5000 + "}", "\ufeff{}"])
def test_a_manifest_that_breaks_the_parser_is_refused(bundle: Path, content: str) -> None:
    (bundle / "spectr.json").write_text(content)
    assert "is not JSON" in refusal(bundle)


def test_truncated_weights_are_refused(bundle: Path) -> None:
    data = (bundle / WEIGHTS).read_bytes()
    (bundle / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert "target/model.safetensors" in refusal(bundle)


def test_truncated_weights_with_their_hash_are_refused(bundle: Path) -> None:
    data = (bundle / WEIGHTS).read_bytes()
    replace(bundle, WEIGHTS, data[: len(data) // 2])
    assert f"the file has {len(data) // 2}. Do not use this bundle." in refusal(bundle)


@pytest.mark.parametrize("name", [WEIGHTS, GRAPH, "draft/config.json", "tokenizer/tokenizer.json"])
def test_a_link_that_leaves_the_bundle_is_refused(bundle: Path, tmp_path: Path, name: str) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    assert f"names '{name}', which lies outside the bundle" in refusal(bundle)


def test_a_folder_that_is_a_link_out_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    (bundle / "draft").rename(tmp_path / "elsewhere")
    (bundle / "draft").symlink_to(tmp_path / "elsewhere")
    assert "which lies outside the bundle" in refusal(bundle)


@pytest.mark.parametrize(
    "location",
    ["../../secret", "../draft/model.safetensors", "/etc/hostname", "no.safetensors", "", "./../target/model.onnx"],
)
def test_weights_outside_the_bundle_or_missing_are_refused(bundle: Path, tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"0" * 100_000)
    name = repoint(bundle, location=location)
    assert f"takes {name} from {location!r}, which is not a file of the bundle. Do not use" in refusal(bundle)


@pytest.mark.parametrize("offset", ["999999999", "-8", "1e3", "9" * 40, "٣"])
def test_offsets_outside_the_file_are_refused(bundle: Path, offset: str) -> None:
    name = repoint(bundle, offset=offset)
    assert f"target/model.onnx takes {name} from offset {offset} of {WEIGHTS}" in refusal(bundle)


def test_lengths_beyond_the_file_are_refused(bundle: Path) -> None:
    repoint(bundle, length="999999999")
    assert "999999999 bytes; the file has" in refusal(bundle)


def test_weights_of_inner_graphs_are_looked_at(bundle: Path) -> None:
    tensor = onnx.TensorProto(name="inner", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    inner = onnx.GraphProto(name="inner", initializer=[tensor])
    graph = onnx.load(bundle / GRAPH, load_external_data=False)
    branch = onnx.helper.make_node("If", ["input_ids"], [], then_branch=inner, else_branch=inner)
    graph.graph.node.append(branch)
    replace(bundle, GRAPH, graph.SerializeToString())
    assert "takes inner from '../secret'" in refusal(bundle)


def test_a_graph_that_is_none_is_refused(bundle: Path) -> None:
    replace(bundle, GRAPH, b"\xff" * 100)
    assert "target/model.onnx in the bundle" in refusal(bundle)
    assert "is not an ONNX graph" in refusal(bundle)


@pytest.mark.parametrize("name", ["target/pytorch_model.bin", "draft/modeling.py", "tokenizer/chat_template.jinja"])
def test_a_file_that_the_manifest_does_not_list_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_text("")
    assert f"{name} is in the bundle {bundle}, but the manifest does not list it" in refusal(bundle)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "checkpoint", tiny_model("llama", num_hidden_layers=1))


def refused(checkpoint: Path) -> str:
    """Return the error of `spectr-export build`, after checking that no files were left behind."""
    output = checkpoint.parent / "built"
    result = run("build", checkpoint, "--draft", checkpoint, "-o", output)
    assert (result.exit_code, result.stdout) == (42, ""), repr(result.exception)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
    return result.stderr.partition("Error: ")[2]


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / name)
    assert refused(checkpoint).startswith(
        f"{checkpoint} must have its weights in safetensors; found only {name}, and pickle files can run code."
    )


def with_header(header: object, data: bytes = b"\0" * 64) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a length": b"\1\0\0",
    "an endless header": struct.pack("<Q", 2**63) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 2) + b"{]",
    "a header that is too deep": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "a header that is a list": with_header([]),
    "an entry that is a text": with_header({"a": "b"}),
    "offsets beyond the file": with_header({"a": {"dtype": "F32", "shape": [999], "data_offsets": [0, 3996]}}),
    "offsets that run backwards": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}),
    "negative offsets": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}),
    "offsets that are no numbers": with_header({"a": {"dtype": "F32", "shape": [4], "data_offsets": ["0", 16]}}),
    "a size that is negative": with_header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}),
    "a shape that is a number": with_header({"a": {"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}}),
    "bytes of another number than the shape has": with_header(
        {"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 16]}}
    ),
    "an unknown type": with_header({"a": {"dtype": "X7", "shape": [4], "data_offsets": [0, 16]}}),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_weights_are_refused(checkpoint: Path, what: str) -> None:
    (checkpoint / "model.safetensors").write_bytes(BROKEN[what])
    assert refused(checkpoint).startswith(f"{checkpoint / 'model.safetensors'} is no sound safetensors file: ")


def test_weights_cut_off_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refused(checkpoint).startswith(f"{path} is no sound safetensors file: ")


@pytest.mark.parametrize("name", ["../secret.safetensors", "/secret.safetensors", "none.safetensors", 3])
def test_an_index_that_points_elsewhere_is_refused(checkpoint: Path, name: object) -> None:
    weights = checkpoint / "model.safetensors"
    weights.rename(checkpoint / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json" in refused(checkpoint)


def test_code_of_a_checkpoint_is_never_run(checkpoint: Path, tmp_path: Path) -> None:
    witness = tmp_path / "checkpoint" / "witness"
    (checkpoint / "custom.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    change_json(checkpoint / "config.json", model_type="custom", auto_map={"AutoConfig": "custom.Config"})
    message = refused(checkpoint)
    assert message.startswith(f"transformers cannot read {checkpoint / 'config.json'}: ")
    assert "it runs no code from a checkpoint" in message
    assert not witness.exists()


def test_code_of_a_tokenizer_is_never_run(checkpoint: Path) -> None:
    witness = checkpoint / "witness"
    (checkpoint / "custom.py").write_text(f"open({str(witness)!r}, 'w').close()\n")
    change_json(
        checkpoint / "tokenizer_config.json",
        tokenizer_class="Custom",
        auto_map={"AutoTokenizer": [None, "custom.Custom"]},
    )
    assert "custom code" in refused(checkpoint)
    with pytest.raises(ValueError, match="custom code"):
        Tokenizer(checkpoint, VOCABULARY)
    assert not witness.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": -1},
        {"hidden_size": "wide"},
        {"num_hidden_layers": -1},
        {"vocab_size": 10**30},
        {"layer_types": 5},
        {"num_attention_heads": 0},
        {"rope_scaling": 3},
    ],
)
def test_a_configuration_of_nonsense_is_refused(checkpoint: Path, changes: dict[str, Any]) -> None:
    change_json(checkpoint / "config.json", **changes)
    assert "config.json" in refused(checkpoint)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000])
def test_a_configuration_that_is_no_object_is_refused(checkpoint: Path, content: str) -> None:
    (checkpoint / "config.json").write_text(content)
    assert "config.json" in refused(checkpoint)
