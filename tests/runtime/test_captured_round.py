"""A round whose shapes were there before waits for nothing, and copies nothing between the host and the device."""

# B rows, C rows that are adjusted, N tree nodes with the root, V vocabulary.
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from capturable import capturable
from tiny_heads import LAYERS, LOGITS, SIZE, bundled_head, target_checkpoint
from tiny_models import POSITIONS, SIZES, VOCABULARY, save_checkpoint, tiny_model

from spectr_runtime import Call, ModelSpec, SamplingParams
from spectr_runtime.bundle import Features, Vocabulary
from spectr_runtime.bundle.e4m3 import encode
from spectr_runtime.bundle.rows import round_rows
from spectr_runtime.contract.mask import block_mask, triangle
from spectr_runtime.drafting.batch import Fresh, Given, Rows, tree_call
from spectr_runtime.drafting.given import GivenDrafts
from spectr_runtime.drafting.head import BesideHead, DraftHead
from spectr_runtime.drafting.model import DraftModel
from spectr_runtime.drafting.source import Source
from spectr_runtime.engines.torch import TorchEngine
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.speculation.narrow import WidenedEngine
from spectr_select import DraftTree, Noise, select

OpenEngine = Callable[[str, str], TorchEngine]

DEVICES = ("cpu", "meta")
NARROW = 100  # tokens that the narrow draft model knows
FEATURES = Features(LAYERS, len(LAYERS) * SIZE)
# The key/value heads of the tiny models that do not group them.
KEY_HEADS = {"gpt2": 4, "opt": 4, "gpt_neox": 4, "bloom": 4, "falcon": 1}
PATHS, CHAIN, BRANCHING = DraftTree.paths(2, 3), DraftTree.chain(3), DraftTree((-1, 0, 0, 1, 1, 2))
SOURCES = {
    "model": [("race", PATHS), ("kseq", PATHS), ("rrsw", BRANCHING), ("single", CHAIN)],
    "narrow": [("race", BRANCHING)],
    "head": [("race", PATHS), ("rrsw", BRANCHING), ("block", CHAIN)],
    "beside": [("race", PATHS)],
    "given": [("race", PATHS), ("single", CHAIN), ("race", DraftTree.chain(0))],
}
PARAMS = {
    "drawn": (SamplingParams(), SamplingParams(temperature=0.5)),
    "greedy": (SamplingParams(temperature=0), SamplingParams(temperature=0)),
    "truncated": (SamplingParams(temperature=0), SamplingParams(top_k=9, top_p=0.9, min_p=0.01)),
}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the check of calls that reads tensors where they are on the CPU, and on no other device."""
    monkeypatch.setattr("spectr_runtime.engines.torch.check_call", lambda *_: None)


@pytest.fixture(scope="module")
def open_(tmp_path_factory: pytest.TempPathFactory) -> OpenEngine:
    """``open_(role, device)``: a target with features, a draft model, one with fewer tokens, or a head."""
    folder = tmp_path_factory.mktemp("captured")
    target_checkpoint(folder / "target")
    save_checkpoint(folder / "model", tiny_model("qwen3", seed=2))
    save_checkpoint(folder / "narrow", tiny_model("llama", seed=3, vocab_size=NARROW, eos_token_id=None))
    specs = {
        "target": ModelSpec("llama", 4, 2, 8, VOCABULARY, POSITIONS, features=FEATURES),
        "model": ModelSpec("qwen3", 2, 2, 8, VOCABULARY, POSITIONS),
        "narrow": ModelSpec("llama", 2, 2, 8, NARROW, POSITIONS),
        "head": bundled_head(folder / "head"),
    }
    return lambda role, device: TorchEngine(folder / role, specs[role], rows=2, capacity=64, device=device)


def source_of(name: str, open_: OpenEngine, device: str) -> Source:
    if name == "given":
        return GivenDrafts()
    if name == "model":
        return DraftModel(open_("model", device))
    if name == "narrow":
        return DraftModel(WidenedEngine(open_("narrow", device), Vocabulary(VOCABULARY, (), 2)))
    tokens_N = torch.arange(VOCABULARY - LOGITS, VOCABULARY)
    head = DraftHead(WidenedEngine(open_("head", device), Vocabulary(VOCABULARY, ()), tokens_N), 3)
    return head if name == "head" else BesideHead(head)


def adjustment_on(device: str) -> Adjustment:
    """The adjustment of the second row."""
    counts_C1V = (torch.arange(VOCABULARY, device=device) % 3).float()[None, None]
    one_C11 = torch.ones((1, 1, 1), device=device)
    few_C1V = counts_C1V > 1
    penalties = (0.5 * one_C11, 0.1 * one_C11, 1.2 * one_C11)
    rows_C = torch.ones(1, dtype=torch.int64, device=device)
    return Adjustment(rows_C, *penalties, counts_C1V, few_C1V, counts_C1V, few_C1V, 2 * one_C11[0])


def rows_on(device: str, tree: DraftTree, params: Sequence[SamplingParams], turn: int, most: int) -> Rows:
    """Two rows of lengths, tokens and seeds that change with the turn, the second of which has other drafts given."""
    two_B = torch.arange(2, device=device) + turn
    tokens_BT = two_B[:, None].repeat(1, most) * 7
    given_BN = torch.full((2, tree.size), -1, device=device)
    given_BN[1, 1:] = 9
    return Rows(
        length_B=5 + two_B,
        last_B2=tokens_BT[:, :2],
        seed_B=two_B * 977,
        sampling=Sampling.of(params, VOCABULARY, torch.device(device)),
        adjustment=adjustment_on(device),
        logprobs=None,
        longest=6 + turn,
        given=Given(given_BN, two_B, plain=False),
        fresh=Fresh(tokens_BT, 1 + two_B % most, most),
    )


def play(source: Source, target: TorchEngine, rule: str, tree: DraftTree, rows: Rows) -> None:
    """The parts of a round that a graph records."""
    noise = Noise(rows.seed_B, rows.length_B, certain=rows.sampling.all_greedy)
    drafts = source.draft(rule, tree, rows, noise)
    sees_NN = tree.ancestors(rows.length_B.device)
    logits_BNV, states_BNF = target.run(tree_call(target, rows, drafts.tokens_BN, tree.depths, 0, sees_NN))
    target_BNV, _ = rows.laws(logits_BNV, drafts.tokens_BN, sees_NN)
    chosen = select(rule, tree, drafts.tokens_BN, target_BNV, drafts.law_BPV, noise)
    target.cache.keep(rows.root_B, chosen.accepted_BD, rows.longest - 1 + tree.size)
    source.keep(rows, chosen.accepted_BD, tree.size, states_BNF)


@pytest.mark.parametrize(("params", "device"), [*((params, "cpu") for params in PARAMS), ("truncated", "meta")])
@pytest.mark.parametrize("name", SOURCES)
def test_every_round_but_the_first_can_be_captured(name: str, params: str, device: str, open_: OpenEngine) -> None:
    target, most = open_("target", device), 60 if name == "beside" else 3
    for rule, tree in SOURCES[name]:
        source = source_of(name, open_, device)
        for turn in (0, 1):
            rows = rows_on(device, tree, PARAMS[params], turn, most)
            with capturable() if turn else nullcontext():
                play(source, target, rule, tree, rows)


def call_on(device: str, first: int) -> Call:
    """Feed three tokens to both rows."""
    start_B, column_T = torch.full((2,), first, device=device), torch.arange(3, device=device)
    return Call(
        input_ids_BT=(start_B[:, None] + column_T) * 7,
        position_ids_BT=start_B[:, None] + column_T,
        attention_mask_B1TL=block_mask(start_B, triangle(3, torch.device(device)), 64),
        write_index_B=start_B,
        logit_index_BM=column_T.expand(2, -1),
    )


@pytest.mark.parametrize("family", SIZES)
def test_every_call_of_a_model_but_the_first_can_be_captured(family: str, tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tiny_model(family))
    spec = ModelSpec(family, 2, KEY_HEADS.get(family, 2), 8, VOCABULARY, POSITIONS)
    for device in DEVICES:
        engine = TorchEngine(tmp_path, spec, rows=2, capacity=64, device=device)
        engine.run(call_on(device, 0))
        later = call_on(device, 3)
        with capturable():
            engine.run(later)


@pytest.mark.parametrize("device", DEVICES)
def test_the_rounding_of_inputs_can_be_captured(device: str) -> None:
    numbers = torch.ones((2, 3, 8), device=device)
    with capturable():
        round_rows(numbers, 127)
        encode(numbers, numbers[0, 0, 0])
