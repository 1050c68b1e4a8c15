"""GGUF files: the blocks of ggml, what becomes of a file, and which files are refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from quantised_checkpoints import GGUF_TOKENS, random_blocks, save_gguf
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from spectr_export.build import build
from spectr_export.original.formats.blocks import Form
from spectr_export.original.formats.ggml import LAYOUTS, read_blocks
from spectr_export.original.formats.gguf import GgufFile, unpack
from spectr_export.original.model import load_config, load_stored
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle, BundleError

SIZES: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 256,
    "tie_word_embeddings": True,
    "vocab_size": GGUF_TOKENS,
}
# The types of the tensors, by a part of their names.
MIXED = {
    "attn_q": "Q4_K",
    "attn_k": "Q5_0",
    "attn_v": "Q6_K",
    "attn_output": "Q4_1",
    "ffn_gate": "Q5_K",
    "ffn_up": "Q4_0",
    "ffn_down": "Q5_1",
    "token_embd": "Q8_0",
}


def kind(name: str) -> str:
    return next(kind for part, kind in MIXED.items() if part in name)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with tensors of every type."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    save_gguf(path, tiny_model("llama", **SIZES), kind)
    return path


@pytest.fixture(scope="module")
def folder(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, unpacked."""
    return unpacked(file, tmp_path_factory.mktemp("unpacked"))


def unpacked(path: Path, folder: Path, lines: list[str] | None = None) -> Path:
    unpack(path, folder, (lines if lines is not None else []).append)
    return folder


@pytest.mark.parametrize("name", LAYOUTS)
def test_blocks_have_the_numbers_of_ggmls_own_package(name: str) -> None:
    layout = LAYOUTS[name]
    data = random_blocks(name, outputs=5, inputs=3 * layout.inputs)
    blocks = read_blocks(torch.from_numpy(data), layout)
    expected = torch.from_numpy(gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]))
    assert blocks.scales_NG.shape[1] == expected.shape[1] // layout.block
    assert (blocks.minima_NG is not None) == layout.minima
    assert layout.code == "int8" or (int(blocks.codes_NK.amin()) >= -8 and int(blocks.codes_NK.amax()) <= 7)
    torch.testing.assert_close(blocks.decode(), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().amax()))


def test_every_weight_is_what_transformers_loads(file: Path, folder: Path) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    weights = load_stored(folder).weights
    assert weights.keys() == dict(loaded.named_parameters()).keys()
    for name, tensor in loaded.named_parameters():
        assert torch.equal(weights[name].read(), tensor.detach())


def test_matrices_stay_in_their_blocks_in_transformers_order(folder: Path) -> None:
    weights = load_stored(folder).weights
    layer = "model.layers.1."
    forms = {"self_attn.q_proj": Form("int4", 32, True), "self_attn.v_proj": Form("int8", 16)}
    for name, form in forms.items():
        quantised = weights[f"{layer}{name}.weight"].quantised
        assert quantised is not None
        assert quantised.unpack is not None
        assert quantised.form == form
        torch.testing.assert_close(quantised.unpack().decode(), quantised.read(), rtol=1e-5, atol=1e-7)


def test_a_file_becomes_a_bundle(file: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    build(BuildOptions(str(file), "int8"), tmp_path / "bundle", say=lines.append)
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.manifest.models["target"].quantisation == "kept int4, int8"
    assert abs(bundle.manifest.quality["target"]["lost"]) < 1e-5
    told = [line for line in lines if line.startswith("target: matrices")]
    assert told == [
        "target: matrices kept as they come: 4 int4 in blocks of 32 with minima, 4 int8 in blocks of 32 with minima, "
        "2 int4 in blocks of 32, 2 int8 in blocks of 16, 2 int8 in blocks of 32"
    ]
    assert "target: quantised in the checkpoint and widened to float32: model.embed_tokens.weight" in lines
    assert not (tmp_path / "bundle" / "target" / "model.gguf").exists()


def test_the_tokenizer_reads_and_writes_as_in_the_file(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "Zoë, 42 €\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(text)["input_ids"]) == len(text.encode())
    assert len(tokenizer(" t")["input_ids"]) == 1


def written(path: Path, **changes: Any) -> Path:
    """A small file in half precision, with other metadata or tensors."""
    save_gguf(path, tiny_model("llama", vocab_size=GGUF_TOKENS), lambda name: "F16", **changes)
    return path


def test_a_file_in_half_precision_has_nothing_to_keep(tmp_path: Path) -> None:
    weights = load_stored(unpacked(written(tmp_path / "half.gguf"), new(tmp_path))).weights
    matrix = weights["model.layers.0.mlp.up_proj.weight"]
    assert matrix.quantised is None
    assert matrix.dtype == torch.float16


def new(folder: Path) -> Path:
    (folder / "new").mkdir()
    return folder / "new"


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_scaled_rotary_positions_are_read(kind: str, tmp_path: Path) -> None:
    scaling = {
        "llama.rope.scaling.type": kind,
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 32,
    }
    config = load_config(unpacked(written(tmp_path / "scaled.gguf", metadata=scaling), new(tmp_path)))
    found = {name: config.rope_parameters[name] for name in ("rope_type", "factor")}
    assert found == {"rope_type": kind, "factor": 4.0}
    assert config.rope_parameters["original_max_position_embeddings"] == 32


def llama3_divisors(base: float, size: int, factor: float) -> np.ndarray:
    """The divisors that llama.cpp's converter writes for Llama 3.1."""
    divisors = []
    for place in range(0, size, 2):
        length = 2 * math.pi * base ** (place / size)
        if length < 8192 / 4:
            divisors.append(1.0)
        elif length > 8192:
            divisors.append(factor)
        else:
            smooth = (8192 / length - 1) / 3
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def test_the_divisors_of_llama_3_become_its_parameters(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=GGUF_TOKENS)
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 5e5}
    divisors = llama3_divisors(5e5, 8, factor=32.0)
    assert 1 < len(set(divisors.tolist())) < 5
    save_gguf(tmp_path / "a.gguf", model, lambda name: "F16", extra={"rope_freqs.weight": divisors})
    parameters = load_config(unpacked(tmp_path / "a.gguf", new(tmp_path))).rope_parameters
    assert parameters["rope_type"] == "llama3"
    assert parameters["factor"] == 32.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metadata": {"split.count": 3}}, "is one of 3 parts of a model."),
        ({"metadata": {"llama.expert_count": 8}}, "holds a mixture of experts"),
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, "scales its rotary positions by 'longrope'"),
        ({"extra": {"rope_factors_long.weight": np.ones(4, np.float32)}}, "has the factors of LongRoPE"),
        ({"extra": {"rope_freqs.weight": np.full(4, 3, np.float32)}}, "that are not Llama 3's"),
    ],
)
def test_what_transformers_would_leave_out_is_refused(changes: Any, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "odd.gguf", **changes)
    with pytest.raises(BundleError) as caught:
        unpacked(path, new(tmp_path))
    assert words in caught.value.message
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"no such thing" * 9])
def test_a_file_that_is_not_sound_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(BundleError, match=r"bad.gguf is no sound GGUF file"):
        unpacked(tmp_path / "bad.gguf", new(tmp_path))


def test_a_truncated_file_is_refused(file: Path, tmp_path: Path) -> None:
    (tmp_path / "short.gguf").write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BundleError, match=r"short.gguf is no sound GGUF file"):
        unpacked(tmp_path / "short.gguf", new(tmp_path))


def test_a_file_that_was_replaced_is_read_anew(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    shutil.copy(file, path)
    assert GgufFile.open(path).architecture
    path.write_bytes(b"GGUF, another one")
    with pytest.raises(BundleError, match="is no sound GGUF file"):
        GgufFile.open(path)


def test_files_beside_it_are_taken_and_told(file: Path, tmp_path: Path) -> None:
    path, lines = written(tmp_path / "a.gguf"), list[str]()
    config = json.loads((unpacked(path, new(tmp_path)) / "config.json").read_text()) | {"rope_theta": 77.0}
    (tmp_path / "config.json").write_text(json.dumps(config | {"bos_token_id": 3}))
    (tmp_path / "again").mkdir()
    unpacked(path, tmp_path / "again", lines)
    assert lines == [f"{path}: config.json beside it is taken"]
    assert json.loads((tmp_path / "again" / "config.json").read_text())["bos_token_id"] == 3


@pytest.mark.parametrize(
    ("rule", "text", "pieces", "told"),
    [
        ("smollm", "in 2024", ["in", "Ġ", "2", "0", "2", "4"], False),
        ("gpt-2", "in 2024", ["in", "Ġ2024"], False),
        ("unheard-of", "in 2024", ["in", "Ġ2024"], True),
    ],
)
def test_texts_are_cut_by_the_rule_that_the_file_names(
    rule: str, text: str, pieces: list[str], told: bool, tmp_path: Path
) -> None:
    lines: list[str] = []
    path = written(tmp_path / "a.gguf", rule=rule)
    tokenizer = AutoTokenizer.from_pretrained(unpacked(path, new(tmp_path), lines))
    cut = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [piece for piece, _ in cut] == pieces
    assert bool(lines) == told
