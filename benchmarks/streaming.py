"""Memory and time of a build from a large sharded checkpoint, against the limit of 1.3 shards and 2 GB.

    python benchmarks/streaming.py                    # 3 billion parameters: 6 GB of shards, 12 GB of bundle, in /tmp
    python benchmarks/streaming.py --layers 4 --output small.json

A random llama in bfloat16 is written shard by shard and built as target, with a draft of one layer. Another process
builds; its anonymous memory (what it allocates) and its mapped files (which the system can drop) are watched in
each phase. The limit holds for the anonymous part.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
import torch
from machine import machine
from safetensors.torch import save_file
from transformers import AutoTokenizer, LlamaConfig

PAIR = Path(__file__).parent.parent / "examples" / "demo_pair"
SHARD = 2_000_000_000
# Sizes of a usual model of three billion parameters; the vocabulary is the demo tokenizer's, padded.
SIZES = {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24, "num_key_value_heads": 8}
VOCABULARY = 128_256


def write_checkpoint(folder: Path, layers: int) -> int:
    """Write a random model in shards, one in memory at a time; returns the bytes of the largest."""
    config = LlamaConfig(
        **SIZES, num_hidden_layers=layers, vocab_size=VOCABULARY, max_position_embeddings=4096,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(PAIR / "target").save_pretrained(folder)
    shard: dict[str, torch.Tensor] = {}
    weight_map, sizes = {}, []
    shapes = list(weight_shapes(layers))
    generator = torch.Generator().manual_seed(0)
    for place, (name, shape) in enumerate(shapes):
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        shard[name] = (torch.randn(shape, generator=generator) * scale + (len(shape) == 1)).bfloat16()
        weight_map[name] = f"model-{len(sizes)}.safetensors"
        if place + 1 == len(shapes) or _bytes(shard) + 2 * shapes[place + 1][1].numel() > SHARD:
            save_file(shard, folder / weight_map[name], {"format": "pt"})
            sizes.append(_bytes(shard))
            shard.clear()
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return max(sizes)


def weight_shapes(layers: int) -> list[tuple[str, torch.Size]]:
    """Names and sizes of a llama's weights."""
    hidden, inner = SIZES["hidden_size"], SIZES["intermediate_size"]
    cached = hidden // SIZES["num_attention_heads"] * SIZES["num_key_value_heads"]
    square, grouped = (hidden, hidden), (cached, hidden)
    attention = {"q_proj": square, "k_proj": grouped, "v_proj": grouped, "o_proj": square}
    feed_forward = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    layer = {
        **{f"self_attn.{name}": shape for name, shape in attention.items()},
        **{f"mlp.{name}": shape for name, shape in feed_forward.items()},
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    return [
        ("model.embed_tokens.weight", torch.Size((VOCABULARY, hidden))),
        *(
            (f"model.layers.{number}.{name}.weight", torch.Size(shape))
            for number in range(layers)
            for name, shape in layer.items()
        ),
        ("model.norm.weight", torch.Size((hidden,))),
    ]


class Watch(threading.Thread):
    """Samples the memory of a process, phase by phase, until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.status = Path(f"/proc/{pid}/status")
        self.phase = "start"
        self.peaks: dict[str, dict[str, int]] = {}

    def run(self) -> None:
        """Sample until the process is gone."""
        while values := self._sample():
            peaks = self.peaks.setdefault(self.phase, {"anonymous": 0, "mapped": 0})
            for part, key in (("anonymous", "RssAnon"), ("mapped", "RssFile")):
                peaks[part] = max(peaks[part], values[key])
            time.sleep(0.02)

    def _sample(self) -> dict[str, int]:
        try:
            lines = [line.split() for line in self.status.read_text(encoding="utf-8").splitlines()]
        except OSError:
            return {}
        return {line[0][:-1]: int(line[1]) * 1024 for line in lines if line[0].startswith("Rss")}


def build(target: Path, draft: Path, output: Path, options: tuple[str, ...]) -> dict[str, object]:
    """Run the command and watch it; a phase ends with each line that it says."""
    command = Path(sys.executable).with_name("spectr-export")
    arguments = [str(command), "build", str(target), "--draft", str(draft), "-o", str(output), *options]
    started = time.perf_counter()
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
    watch = Watch(process.pid)
    watch.start()
    assert process.stderr is not None
    for line in process.stderr:
        click.echo(line.rstrip(), err=True)
        watch.phase = f"after: {line.split('(')[0].strip()}"
    if process.wait():
        raise click.ClickException("the build failed")
    watch.join()
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "peak_anonymous_bytes": max(peak["anonymous"] for peak in watch.peaks.values()),
        "peak_mapped_bytes": max(peak["mapped"] for peak in watch.peaks.values()),
        "peaks_by_phase": watch.peaks,
        "bundle_bytes": sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
    }


def _bytes(tensors: dict[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


@click.command()
@click.option("--layers", default=26, help="Layers of the target; 26 make three billion parameters.")
@click.option(
    "--option", "options", multiple=True, help="Passed on to spectr-export build, for instance --dtype=bfloat16."
)
@click.option(
    "--folder", type=click.Path(path_type=Path), default=None, help="Where to work; a temporary folder if none."
)
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "streaming.json")
def main(layers: int, options: tuple[str, ...], folder: Path | None, output: Path) -> None:
    """Make the checkpoint, build it, write the result file, remove everything else."""
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        largest = write_checkpoint(work / "target", layers)
        write_checkpoint(work / "draft", 1)
        limit = int(1.3 * largest + 2e9)
        measured = build(work / "target", work / "draft", work / "bundle", ("--capacity", "512", *options))
    finally:
        shutil.rmtree(work)
    parameters = sum(shape.numel() for _, shape in weight_shapes(layers))
    result = machine() | {
        "parameters": parameters, "layers": layers, "largest_shard_bytes": largest, "limit_bytes": limit,
        "options": list(options), **measured,
    }  # fmt: skip
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps({key: value for key, value in result.items() if key not in machine()}, indent=1))
    if int(measured["peak_anonymous_bytes"]) > limit:  # type: ignore[call-overload]
        raise click.ClickException(f"the build took more than {limit / 1e9:.1f} GB")


if __name__ == "__main__":
    main()
