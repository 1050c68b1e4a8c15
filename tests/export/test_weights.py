from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from transformers import AutoModelForCausalLM

from spectr_export.original.model import load_original, load_stored
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_export.weights import ALIGNMENT, Layout, read_header, writing
from spectr_runtime import BundleError

TENSORS = {
    "codes": torch.arange(7, dtype=torch.uint8),
    "half": torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=torch.bfloat16),
    "scalar": torch.tensor(7, dtype=torch.int64),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}


def write(path: Path) -> Path:
    layouts = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    with writing(path, layouts, {"format": "pt"}) as write_part:
        for name, tensor in reversed(TENSORS.items()):
            write_part(name, tensor)
    return path


def test_safetensors_reads_what_was_written_in_any_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors")
    read = load_file(path)
    assert read.keys() == TENSORS.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items())
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_to_its_type(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "a.safetensors"))
    assert min(entry.offset for entry in header.values()) % ALIGNMENT == 0
    assert all(entry.offset % TENSORS[name].element_size() == 0 for name, entry in header.items())
    assert (header["half"].shape, header["half"].dtype, header["half"].length) == ((2, 2), "BF16", 8)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"whole": torch.zeros(3), "cut": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"ends before its tensor \w+"):
        read_header(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="is not a safetensors file"):
        read_header(path)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_sharded_checkpoint_becomes_one_file_of_the_wanted_type(tmp_path: Path, dtype: str, tied: bool) -> None:
    model = tiny_model("llama", tie_word_embeddings=tied).bfloat16()
    model.save_pretrained(tmp_path / "source", max_shard_size="20kB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 2
    stored = load_stored(tmp_path / "source")
    save_model(stored.model, tmp_path / "one", StoragePlan.of(stored.model, Precision(dtype)), stored.weights)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((tmp_path / "one" / "config.json").read_text())["dtype"] == dtype
    wanted = getattr(torch, dtype)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "one", dtype="auto").state_dict()
    assert all(torch.equal(again[name], tensor.to(wanted)) for name, tensor in model.state_dict().items())
    assert ("lm_head.weight" in read_header(tmp_path / "one" / "model.safetensors")) is not tied


def test_a_weight_beyond_half_precision_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = 7e4
    with pytest.raises(BundleError, match=r"model\.layers\.1\.mlp\.up_proj\.weight has values up to 7e\+04") as caught:
        save_model(model, tmp_path, StoragePlan.of(model, Precision("float16")))
    assert "bfloat16" in caught.value.hint


def test_a_checkpoint_of_several_types_loses_nothing(tmp_path: Path) -> None:
    model = tiny_model("llama").bfloat16()
    model.model.norm.weight.data = torch.full((32,), 1 / 3)
    model.save_pretrained(tmp_path)
    assert torch.equal(load_original(tmp_path).model.norm.weight, torch.full((32,), 1 / 3))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_a_half_precision_model_computes_in_float32_as_if_it_were_loaded_so(tmp_path: Path, family: str) -> None:
    tiny_model(family).bfloat16().save_pretrained(tmp_path)
    expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    model, text = load_original(tmp_path), torch.arange(9)[None]
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(model(text).logits, expected(text).logits)
    # Between passes every matrix is a stand-in again: one number, expanded to a large shape.
    assert all(weight.untyped_storage().nbytes() == 4 for weight in model.parameters() if weight.dim() > 1)


STREAM = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM, LlamaConfig
from spectr_export.original.model import (load_stored)
from spectr_export.storing.precision import (Precision)
from spectr_export.storing.plan import (StoragePlan)
from spectr_export.weights import (writing)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

folder = Path(sys.argv[1])
stored = load_stored(folder / "source")
plan = StoragePlan.of(stored.model, Precision("float32"))
before, peak = resident(), 0
with writing(folder / "weights", plan.layouts, {}) as write:
    for name, part in plan.convert(stored.weights):
        peak = max(peak, resident())
        write(name, part)
print(peak - before)
"""


LARGE = {
    "llama": {"intermediate_size": 1024, "num_hidden_layers": 12},
    "qwen3_moe": {"moe_intermediate_size": 128, "num_experts": 64, "num_hidden_layers": 2},
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("family", LARGE)
def test_writing_holds_one_tensor_and_never_a_shard_or_a_stack(tmp_path: Path, family: str) -> None:
    model = tiny_model(family, hidden_size=256, **LARGE[family]).half()
    model.save_pretrained(tmp_path / "source", max_shard_size="12MB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 1
    run = subprocess.run([sys.executable, "-c", STREAM, tmp_path], capture_output=True, text=True, check=True)
    assert (tmp_path / "weights").stat().st_size > 45e6
    # The largest tensor has 1 MB in float32, the experts of a layer have 17 MB; the allocator keeps a few tensors.
    assert int(run.stdout) < 8e6
