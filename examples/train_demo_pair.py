"""Train the demo pair: a small Python-writing target and a draft distilled from it.

Everything comes from the standard library's own sources, so the pair can be made again on any machine:

    python examples/train_demo_pair.py --output examples/demo_pair

The script knows the corpus, the two architectures and the losses; it knows nothing of spectr. Steps, seeds and
sizes are constants below, and the corpus hash, losses and times go into ``training.json`` beside the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
import torch.nn.functional as F
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# B rows, T tokens, V vocabulary.
END = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 256
EXCLUDED_FOLDERS = {
    "site-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__",
    "config-3.11-x86_64-linux-gnu",
}  # fmt: skip
# Never trained on: validation text and the demo prompts are taken from these modules.
HELD_OUT = {
    "bisect.py", "calendar.py", "cmd.py", "colorsys.py", "configparser.py", "csv.py", "fnmatch.py", "fractions.py",
    "getopt.py", "glob.py", "graphlib.py", "heapq.py", "mailbox.py", "netrc.py", "pprint.py", "queue.py", "sched.py",
    "shelve.py", "shlex.py", "statistics.py", "string.py", "textwrap.py", "timeit.py", "wave.py", "zipapp.py",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """Steps, batch and peak learning rate of one training run."""

    steps: int
    batch: int
    learning_rate: float


TARGET = Schedule(steps=900, batch=32, learning_rate=2.5e-3)
DRAFT = Schedule(steps=700, batch=16, learning_rate=4e-3)
PAIR = Schedule(steps=360, batch=16, learning_rate=1.2e-3)
SAMPLED_ROWS = 1024  # sequences that the target writes for the draft to learn from


def target_config() -> LlamaConfig:
    """8.4 million parameters, deep and narrow: a target whose steps cost latency, as a real one's do."""
    return _config(
        hidden_size=256, intermediate_size=704, num_hidden_layers=10, num_attention_heads=8, num_key_value_heads=4
    )


def draft_config() -> LlamaConfig:
    """0.8 million parameters, two thirds of them the embedding."""
    return _config(
        hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )


def _config(**sizes: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, max_position_embeddings=1024, tie_word_embeddings=True, rope_theta=10000.0,
        bos_token_id=0, eos_token_id=0, pad_token_id=0, **sizes,
    )  # fmt: skip


def corpus_files(stdlib: Path) -> tuple[list[Path], list[Path]]:
    """The training files and the held-out ones, sorted."""
    files = sorted(path for path in stdlib.rglob("*.py") if not EXCLUDED_FOLDERS & set(path.relative_to(stdlib).parts))
    held_out = [path for path in files if path.name in HELD_OUT and path.parent == stdlib]
    return [path for path in files if path not in set(held_out)], held_out


def read(paths: list[Path]) -> list[str]:
    """The texts of the files that are UTF-8."""
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            click.echo(f"skipped, not UTF-8: {path.name}", err=True)
    return texts


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in the form that transformers loads."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(texts, vocab_size=VOCABULARY, min_frequency=2, special_tokens=[END])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token=END, eos_token=END, pad_token=END,
        clean_up_tokenization_spaces=False, model_max_length=1024,
    )  # fmt: skip


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """One long row of token ids, every text preceded by the end token that also starts a prompt."""
    ids: list[int] = []
    for row in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]:
        ids += [tokenizer.eos_token_id, *row]
    return torch.tensor(ids)


def batches(tokens: torch.Tensor, schedule: Schedule, seed: int) -> Iterator[torch.Tensor]:
    """Windows [B, CONTEXT + 1] that cover the text once per epoch, in random order and at a random offset."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[torch.Tensor] = []
    for _ in range(schedule.steps):
        if len(rows) < schedule.batch:
            offset = int(torch.randint(CONTEXT, (), generator=generator))
            windows = tokens[offset:].unfold(0, CONTEXT + 1, CONTEXT)
            rows += list(windows[torch.randperm(len(windows), generator=generator)])
        yield torch.stack([rows.pop() for _ in range(schedule.batch)])


def optimizers(model: torch.nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms, both decayed to zero linearly."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=schedule.learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, lr=schedule.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def fit(model: torch.nn.Module, schedule: Schedule, data: Iterator[torch.Tensor], loss_of, log: list[dict]) -> None:
    """Run the schedule; ``loss_of(tokens_BT, progress)`` is the loss of a batch at a progress in [0, 1)."""
    optimisers = optimizers(model, schedule)
    started = time.monotonic()
    for step, tokens_BT in enumerate(data):
        progress = step / schedule.steps
        for optimiser in optimisers:
            optimiser.param_groups[0]["lr"] = schedule.learning_rate * min((step + 1) / 60, 1 - progress)
        loss = loss_of(tokens_BT, progress)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == schedule.steps - 1:
            log.append({"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - started)})
            click.echo(json.dumps(log[-1]), err=True)


def train_target(tokens: torch.Tensor, log: list[dict]) -> LlamaForCausalLM:
    """Next-token cross entropy on the corpus."""
    torch.manual_seed(0)  # noqa: TID251 - transformers initialises weights from the global generator alone
    model = LlamaForCausalLM(target_config())

    def loss_of(tokens_BT: torch.Tensor, progress: float) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits_BTV = model(tokens_BT[:, :-1]).logits
        return F.cross_entropy(logits_BTV.float().flatten(0, 1), tokens_BT[:, 1:].flatten())

    fit(model, TARGET, batches(tokens, TARGET, seed=1), loss_of, log)
    return model.eval()


def train_draft(target: LlamaForCausalLM, tokens: torch.Tensor, log: list[dict]) -> LlamaForCausalLM:
    """Distil the target's laws: forward KL at first, blended into total variation, which is the rejection rate."""
    torch.manual_seed(0)  # noqa: TID251 - transformers initialises weights from the global generator alone
    model = LlamaForCausalLM(draft_config())

    def loss_of(tokens_BT: torch.Tensor, progress: float) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                target_BTV = target(tokens_BT[:, :-1]).logits.float().softmax(-1)
            log_draft_BTV = model(tokens_BT[:, :-1]).logits.float().log_softmax(-1)
        divergence = F.kl_div(log_draft_BTV, target_BTV, reduction="none").sum(-1).mean()
        variation = 0.5 * (log_draft_BTV.exp() - target_BTV).abs().sum(-1).mean()
        return (1 - progress) * divergence + progress * 4 * variation

    fit(model, DRAFT, batches(tokens, DRAFT, seed=2), loss_of, log)
    return model.eval()


def train_together(target: LlamaForCausalLM, draft: LlamaForCausalLM, tokens: torch.Tensor, log: list[dict]) -> None:
    """Train both on, each drawn to the other.

    Pairs of large models agree because both are good. Models this small agree on little more than half of the tokens,
    so the target gives up some of its own loss for the overlap that a demonstration of speculation is about.
    """

    def loss_of(tokens_BT: torch.Tensor, progress: float) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            target_BTV, draft_BTV = target(tokens_BT[:, :-1]).logits, draft(tokens_BT[:, :-1]).logits
        log_target_BTV, log_draft_BTV = target_BTV.float().log_softmax(-1), draft_BTV.float().log_softmax(-1)
        variation = 0.5 * (log_draft_BTV.exp() - log_target_BTV.exp()).abs().sum(-1).mean()
        return F.nll_loss(log_target_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten()) + 6 * variation

    pair = torch.nn.ModuleList([target.train(), draft.train()])
    fit(pair, PAIR, batches(tokens, PAIR, seed=4), loss_of, log)
    pair.eval()


@torch.inference_mode()
def write_samples(target: LlamaForCausalLM, tokens: torch.Tensor, rows: int, batch: int = 256) -> torch.Tensor:
    """Text that the target writes at temperature 1 after 32 tokens of the corpus: what the draft will meet."""
    generator = torch.Generator().manual_seed(3)
    prompt_tokens = 32
    samples = []
    for _ in range(rows // batch):
        starts = torch.randint(len(tokens) - prompt_tokens, (batch, 1), generator=generator)
        row_BT = tokens[starts + torch.arange(prompt_tokens)]
        fed, cache = row_BT, DynamicCache(config=target.config)
        while row_BT.shape[1] < CONTEXT:
            with torch.autocast("cpu", torch.bfloat16):
                logits_BV = target(fed, past_key_values=cache, logits_to_keep=1).logits[:, -1].float()
            fed = torch.multinomial(logits_BV.softmax(-1), 1, generator=generator)
            row_BT = torch.cat([row_BT, fed], 1)
        samples.append(row_BT)
    return torch.cat(samples).flatten()


@torch.inference_mode()
def evaluate(target: LlamaForCausalLM, draft: LlamaForCausalLM, tokens: torch.Tensor) -> dict[str, float]:
    """Losses on held-out text and 1 - TV, the chance that one draft is accepted there at temperature 1."""
    rows_BT = tokens.unfold(0, CONTEXT + 1, CONTEXT)[:128]
    target_BTV, draft_BTV = target(rows_BT[:, :-1]).logits, draft(rows_BT[:, :-1]).logits
    wanted = rows_BT[:, 1:].flatten()
    overlap = torch.minimum(target_BTV.softmax(-1), draft_BTV.softmax(-1)).sum(-1).mean()
    return {
        "target_loss": round(float(F.cross_entropy(target_BTV.flatten(0, 1), wanted)), 4),
        "draft_loss": round(float(F.cross_entropy(draft_BTV.flatten(0, 1), wanted)), 4),
        "one_minus_tv": round(float(overlap), 4),
    }


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Weights as float16 safetensors, with the tokenizer beside them."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def machine() -> dict[str, str | int]:
    """What the figures were made with."""
    return {
        "date": time.strftime("%Y-%m-%d"), "python": platform.python_version(), "torch": torch.__version__,
        "transformers": transformers.__version__, "processor": platform.machine(), "cores": os.cpu_count() or 0,
    }  # fmt: skip


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder to write target/ and draft/ to.")
def main(output: Path) -> None:
    """Train the target, then distil the draft, and save both with their tokenizer."""
    started = time.monotonic()
    train_paths, held_out_paths = corpus_files(Path(sysconfig.get_path("stdlib")))
    texts = read(train_paths)
    tokenizer = train_tokenizer(texts)
    tokens, held_out = encode(tokenizer, texts), encode(tokenizer, read(held_out_paths))
    click.echo(f"{len(texts)} files, {len(tokens)} tokens, held out {len(held_out)} tokens", err=True)
    target_log: list[dict] = []
    target = train_target(tokens, target_log)
    sampled = write_samples(target, tokens, SAMPLED_ROWS)
    draft_log: list[dict] = []
    draft = train_draft(target, torch.cat([tokens, sampled]), draft_log)
    before, pair_log = evaluate(target, draft, held_out), []
    train_together(target, draft, tokens, pair_log)
    for name, model in (("target", target), ("draft", draft)):
        save(model, tokenizer, output / name)
    record = machine() | {
        "corpus_sha256": hashlib.sha256("".join(texts).encode()).hexdigest(),
        "files": len(texts), "tokens": len(tokens), "held_out_tokens": len(held_out), "sampled_tokens": len(sampled),
        "parameters": {"target": target.num_parameters(), "draft": draft.num_parameters()},
        "held_out_before_pair": before, "held_out": evaluate(target.float(), draft.float(), held_out),
        "minutes": round((time.monotonic() - started) / 60),
        "target": dataclasses.asdict(TARGET) | {"log": target_log},
        "draft": dataclasses.asdict(DRAFT) | {"log": draft_log},
        "pair": dataclasses.asdict(PAIR) | {"log": pair_log},
    }  # fmt: skip
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(record["held_out"]), err=True)


if __name__ == "__main__":
    main()
