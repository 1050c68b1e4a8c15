"""Memory and time of builds from large sharded checkpoints, against the limit of 1.3 shards and 2 GB.

    python benchmarks/streaming.py                    # every build; 6 GB of shards, up to 12 GB of bundle, in /tmp
    python benchmarks/streaming.py --model mixture --option=--quantise=int4      # one of them, added to the result
    python benchmarks/streaming.py --model dense --layers 4 --option=--dtype=bfloat16 --output small.json

Two random checkpoints of about three billion parameters in bfloat16 are written shard by shard: a llama, and a mixture
of 128 experts that are stored one by one, as published ones are. Each is built as target in several precisions, with a
draft of one layer. Another process builds; its anonymous memory (what it allocates) and its mapped files (which the
system can drop) are watched in each phase. The limit holds for the anonymous part.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import torch
from machine import continues, machine
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion

PAIR = Path(__file__).parent.parent / "examples" / "demo_pair"
SHARD = 2_000_000_000
# The vocabulary is the demo tokenizer's, padded to that of a usual model.
COMMON = {
    "vocab_size": 128_256, "max_position_embeddings": 4096, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "dtype": "bfloat16",
}  # fmt: skip
MODELS: Mapping[str, Mapping[str, Any]] = {
    "dense": {
        "model_type": "llama", "num_hidden_layers": 26, "hidden_size": 3072, "intermediate_size": 8192,
        "num_attention_heads": 24, "num_key_value_heads": 8,
    },
    "mixture": {
        "model_type": "qwen3_moe", "num_hidden_layers": 4, "hidden_size": 2048, "moe_intermediate_size": 768,
        "num_experts": 128, "num_experts_per_tok": 8, "num_attention_heads": 32, "num_key_value_heads": 4,
        "head_dim": 128,
    },
}  # fmt: skip
OPTIONS = ("", "--dtype=bfloat16", "--dtype=float16", "--quantise=int8", "--quantise=int4")


def configure(model: str, layers: int | None) -> Any:
    """The configuration of a model, of its usual number of layers or another."""
    sizes = {**COMMON, **MODELS[model]}
    return AutoConfig.for_model(**sizes | {"num_hidden_layers": layers or sizes["num_hidden_layers"]})


def write_checkpoint(folder: Path, config: Any) -> int:
    """Write a random model in shards, one in memory at a time; returns the bytes of the largest."""
    config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(PAIR / "target").save_pretrained(folder)
    shard: dict[str, torch.Tensor] = {}
    weight_map, sizes = {}, []
    shapes = list(weight_shapes(config).items())
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


def weight_shapes(config: Any) -> dict[str, torch.Size]:
    """Names and sizes of a model's weights as checkpoints have them, tied ones once."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    stored = revert_weight_conversion(model, dict(model.named_parameters()))
    return {name: tensor.shape for name, tensor in stored.items()}


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


def build(target: Path, draft: Path, output: Path, options: tuple[str, ...]) -> dict[str, Any]:
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


def measured_before(output: Path) -> dict[tuple[str, int, tuple[str, ...]], dict[str, Any]]:
    """What the result file has of this day, machine and state: a run of some builds leaves the others there."""
    result = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    lines = result.pop("builds", []) if continues(result, machine()) else []
    return {(line["model"], line["layers"], tuple(line["options"])): line for line in lines}


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice([*MODELS]), help="Default: both.")
@click.option("--option", "options", multiple=True, help="Passed on to spectr-export build; default: every precision.")
@click.option("--layers", type=int, default=None, help="Layers of the target; other than usual, to try things out.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=None, help="Where to work; a temporary folder if none."
)
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "streaming.json")
def main(
    models: tuple[str, ...], options: tuple[str, ...], layers: int | None, folder: Path | None, output: Path
) -> None:
    """Make each checkpoint, build it in each way, add it to the result file, remove everything else."""
    builds = measured_before(output)
    for model in models or MODELS:
        work = Path(tempfile.mkdtemp(dir=folder))
        try:
            config = configure(model, layers)
            largest = write_checkpoint(work / "target", config)
            write_checkpoint(work / "draft", configure(model, 1))
            about = {
                "model": model, "architecture": config.model_type, "layers": config.num_hidden_layers,
                "parameters": sum(shape.numel() for shape in weight_shapes(config).values()),
                "largest_shard_bytes": largest, "limit_bytes": int(1.3 * largest + 2e9),
            }  # fmt: skip
            for option in options or OPTIONS:
                given = (option,) if option else ()
                measured = build(work / "target", work / "draft", work / "bundle", ("--capacity", "512", *given))
                shutil.rmtree(work / "bundle")
                line = about | {"options": list(given), **measured}
                builds[model, config.num_hidden_layers, given] = line
                result = machine() | {"builds": list(builds.values())}
                output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                click.echo(json.dumps(line, indent=1))
        finally:
            shutil.rmtree(work)
    above = [one for one in builds.values() if one["peak_anonymous_bytes"] > one["limit_bytes"]]
    if above:
        raise click.ClickException(f"{len(above)} of {len(builds)} builds took more than their limit")


if __name__ == "__main__":
    main()
