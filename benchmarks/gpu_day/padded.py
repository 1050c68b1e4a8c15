"""A pair whose target is the demo's, padded with zeros in the device's memory.

A padded target of seven billion parameters would take a minute to write, to check and to read again, and every decoder
would read it anew. So the bundle on disk has configurations, tokenizer and manifest alone, and PyTorch's engine gets
its models from here. They are made by ``examples/pad_target.py``, which ``make demo`` uses too, and are what the engine
would make of the files. All decoders share them; caches are their own.
"""

# T tokens, V vocabulary.
from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pad_target
import torch
from transformers import LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from gpu_day.day import DEMO, PROMPT, ROOT, Size
from spectr_runtime import Bundle, Manifest, ModelSpec, Request, SamplingParams
from spectr_runtime.adapter.model import ContractModel
from spectr_runtime.bundle import Limits, Role, Vocabulary
from spectr_runtime.bundle.layout import CONFIG, MANIFEST, TOKENIZER, WEIGHTS
from spectr_runtime.contract import DTYPES
from spectr_runtime.engines import torch as torch_engine
from spectr_runtime.rows.text.tokenizer import Tokenizer

CAPACITY, CHUNK = 512, 256
CHECKED = 128  # tokens on which the laws are compared
_LENT: dict[Path, ContractModel] = {}


class Padded:
    """The pair: a padded target and the demo's draft.

    Args:
        folder: Where its bundle goes; there is none yet.
        size: Of the target.
        dtype: Type of weights, caches and arithmetic.
        device: Where the models are made.

    Attributes:
        bundle: The bundle, for the backend ``torch`` alone.
        facts: Its size, for a result file, and how far its law is from that of the demo's target: the mean total
            variation on a text. In bfloat16 that is what rounding does.
        weight_bytes: Bytes of the target's weights, all of which a pass reads.
        slot_bytes: Bytes of the keys and values of a token.
    """

    def __init__(self, folder: Path, size: Size, dtype: str, device: str) -> None:
        disable_progress_bar()
        source, _ = pad_target.open_source(DEMO / "target")
        source = source.to(device, torch.float32)  # type: ignore[call-arg]
        target = padded(source, size, dtype, device)
        draft, _ = pad_target.open_source(DEMO / "draft")
        draft = draft.to(device, DTYPES[dtype])  # type: ignore[call-arg]
        self.weight_bytes = sum(one.nbytes for one in target.parameters())
        config = target.config
        width = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
        self.slot_bytes = width * DTYPES[dtype].itemsize
        self.bundle = write(folder, {"target": target, "draft": draft}, dtype)
        self.facts = {
            "sizes": size._asdict(), "dtype": dtype, "parameters": sum(one.numel() for one in target.parameters()),
            "weight_bytes": self.weight_bytes, "total_variation": variation(source, target, self.bundle),
        }  # fmt: skip
        for role, model in (("target", target), ("draft", draft)):
            _LENT[folder / role] = ContractModel(model).eval()
        torch_engine._load = lambda place, spec, where: _LENT[place]


def padded(source: LlamaForCausalLM, size: Size, dtype: str, device: str) -> LlamaForCausalLM:
    """Return the demo's target, padded to a size."""
    wider = pad_target.widened(source.config, *size)
    with torch.device(device):
        return pad_target.pad(copy.deepcopy(source).to(DTYPES[dtype]), wider)  # type: ignore[arg-type]


def write(folder: Path, models: dict[Role, LlamaForCausalLM], dtype: str) -> Bundle:
    """Write what is read of the bundle's files: configurations, tokenizer and manifest, and small weights files.

    The engine asks the weights files only whether layers round their inputs, which those of the demo do not.
    """
    for role, model in models.items():
        (folder / role).mkdir(parents=True)
        model.config.save_pretrained(folder / role)
        shutil.copy(DEMO / role / WEIGHTS, folder / role / WEIGHTS)
    shutil.copytree(DEMO / "target", folder / TOKENIZER, ignore=shutil.ignore_patterns(WEIGHTS, CONFIG))
    config = models["target"].config
    manifest = Manifest(
        models={role: spec_of(model.config, dtype) for role, model in models.items()},
        vocabulary=Vocabulary(config.vocab_size, (config.eos_token_id,)),
        limits=Limits(CAPACITY, CHUNK),
        files={},
        versions={},
        parity={role: {} for role in models},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return Bundle(folder, manifest)


def spec_of(config: Any, dtype: str) -> ModelSpec:
    """Return what a manifest says of a model."""
    return ModelSpec(
        "llama", config.num_hidden_layers, config.num_key_value_heads, config.head_dim, config.vocab_size,
        config.max_position_embeddings, dtype,
    )  # fmt: skip


@torch.inference_mode()
def variation(source: LlamaForCausalLM, target: LlamaForCausalLM, bundle: Bundle) -> float:
    """Return the mean total variation between the laws of two models on the text of this file."""
    tokenizer = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size)
    ids = tokenizer.encode(Path(__file__).read_text(encoding="utf-8"))[:CHECKED]
    ids_1T = torch.tensor([ids], device=target.device)
    law_1TV, padded_1TV = (model(input_ids=ids_1T).logits.float().softmax(-1) for model in (source, target))
    return float((law_1TV - padded_1TV).abs().sum(-1).mean() / 2)


def requests_of(bundle: Bundle, count: int, tokens: int, turn: int = 0) -> list[Request]:
    """Return so many requests at temperature 1 that write so many tokens, behind the ends of demo prompts.

    Every turn has requests of its own, for texts that were written before are drafted from. There are fewer prompts
    than rows; rows of the same prompt have other names, and so other noise.
    """
    tokenizer = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size)
    lines = (ROOT / "examples" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = map(json.loads, lines)
    prompts = [tokenizer.encode(one.get("prompt") or one["body"]["prompt"])[-PROMPT:] for one in records]
    prompts = [ids for ids in prompts if len(ids) == PROMPT]
    params = SamplingParams(max_tokens=tokens, ignore_eos=True)
    rows = range(turn * count, (turn + 1) * count)
    return [Request(f"row-{row}", tuple(prompts[row % len(prompts)]), params) for row in rows]
