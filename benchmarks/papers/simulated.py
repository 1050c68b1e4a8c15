"""Rounds of a pair of small models over any tree and for any rule: what rules accept, without engines and bundles.

Other scripts import this one. A round begins behind a context, a window of text that the target itself has written
after a prompt of the demo's; the draft's laws along the tree, the tokens drawn and the target's laws at every node are
those of the models, and the code that draws and selects is the one that decodes. Rules that draw alike see the same
drafts. Contexts begin at places that do not depend on a rule, where rounds of a decoding begin behind what the rule
before has accepted; so tokens per round differ somewhat from a decoding's block efficiency, and compare rules alike.

The draft's law can be blended with another one, which makes drafts of any quality out of one pair.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from spectr_select import RULES, DraftTree, Noise, Selection, draw, select

# B rows, C context tokens, I contexts, L tokens of a text, M nodes of a level, N nodes, P nodes with a draft law,
# S rounds, V vocabulary.
EXAMPLES = Path(__file__).parent.parent.parent / "examples"
ROWS = 32  # contexts at a time
WINDOW, WRITTEN, STEP = 64, 64, 16  # tokens of a context, written behind a prompt, between two contexts


@dataclasses.dataclass(frozen=True, slots=True)
class Blend:
    """Another law for the draft: ``(1 - weight) draft + weight other``, of a draft at another temperature.

    Attributes:
        weight: 0 to 1.
        toward: The other law: ``target``, the target's own after the same text, or ``unigram``, the mean of the
            target's laws behind all contexts, which knows nothing of the text.
        flatter: The draft's temperature as a multiple of the target's.
    """

    weight: float = 0.0
    toward: str = "target"
    flatter: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.toward not in ("target", "unigram") or not self.flatter > 0:
            raise ValueError(
                f"{self} is no blend; the weight is 0 to 1, toward is target or unigram, and flatter is above 0."
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Drawn:
    """Rounds that have been drawn and scored.

    Attributes:
        tree: The topology.
        tokens_BN: The context's last token, then the drafts.
        target_BNV: The target's law after every node, float32.
        draft_BPV: The law that the children of the leading nodes were drawn from, float32.
        noise: The noise of the rounds.
    """

    tree: DraftTree
    tokens_BN: torch.Tensor
    target_BNV: torch.Tensor
    draft_BPV: torch.Tensor
    noise: Noise

    def select(self, rule: str) -> Selection:
        """Select by a rule that draws as these rounds were drawn."""
        fresh = self.noise if RULES[rule].drawing == "race" else Noise(self.noise.seed_B, self.noise.position_B)
        return select(rule, self.tree, self.tokens_BN, self.target_BNV, self.draft_BPV, fresh)

    def shorter(self, depth: int) -> Drawn:
        """Return these rounds without what is below a depth, as they are drawn with the shorter tree."""
        tree = DraftTree(self.tree.parents[: self.tree.levels[depth].stop])
        laws = self.target_BNV[:, : tree.size], self.draft_BPV[:, : tree.inner]
        return Drawn(tree, self.tokens_BN[:, : tree.size], *laws, self.noise)

    def ratios(self) -> torch.Tensor:
        """Return for every draft the target's probability over the draft's, behind its parent; float64 [B, N - 1]."""
        row_B1, parents = torch.arange(len(self.tokens_BN))[:, None], list(self.tree.parents[1:])
        place = row_B1, parents, self.tokens_BN[:, 1:]
        return self.target_BNV[place].double() / self.draft_BPV[place].double()


class Reader:
    """A model that has read some contexts, but for their last tokens, which are the roots of trees."""

    def __init__(self, model: PreTrainedModel, context_BC: torch.Tensor) -> None:
        self._model, self._read = model, context_BC.shape[1] - 1
        self._cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(input_ids=context_BC[:, :-1], past_key_values=self._cache, use_cache=True, logits_to_keep=1)

    def logits(self, tree: DraftTree, tokens_BN: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Return the logits after the leading nodes of a tree, as many as tokens are given; float32 [B, N, V].

        With ``first``, those after the nodes from this one on; the calls before have read the nodes before it.
        """
        nodes = tokens_BN.shape[1]
        seen_1NN = tree.ancestors("cpu")[None, :nodes, :nodes]
        return self.logits_seen(seen_1NN, torch.tensor([tree.depths[:nodes]]), tokens_BN, first)

    def logits_seen(
        self, seen_BNN: torch.Tensor, depth_BN: torch.Tensor, tokens_BN: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """Return ``logits`` where every row has a tree of its own: what its nodes see, and their depths."""
        if beyond := self._cache.get_seq_length() - self._read - first:
            self._cache.crop(-beyond)
        seen_BNN = seen_BNN[:, first:].expand(len(tokens_BN), -1, -1)
        seen_BNT = torch.cat([seen_BNN.new_ones((*seen_BNN.shape[:2], self._read)), seen_BNN], 2)
        mask_B1NT = torch.where(seen_BNT, 0.0, torch.finfo(torch.float32).min)[:, None]
        with torch.inference_mode():
            return self._model(  # type: ignore[no-any-return]
                input_ids=tokens_BN[:, first:], attention_mask=mask_B1NT,
                position_ids=self._read + depth_BN[:, first:], past_key_values=self._cache, use_cache=True,
            ).logits  # fmt: skip

    def written(
        self, token_B1: torch.Tensor, length: int, choose: Callable[[int, torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:  # fmt: skip
        """Return a given token and so many behind it, each chosen by ``(depth, logits_BV) -> token_B``; [B, 1 + L]."""
        chain, text_BL = DraftTree.chain(length), token_B1
        for depth in range(1, length + 1):
            chosen_B = choose(depth, self.logits(chain, text_BL, depth - 1)[:, -1])
            text_BL = torch.cat([text_BL, chosen_B[:, None]], 1)
        return text_BL


class SimulatedPair:
    """A target and a draft of one vocabulary, and contexts that both have read.

    Args:
        target: The folder of the target.
        draft: The folder of the draft.
        contexts: How many contexts are taken, evenly over all that there are.
        texts: Which of the texts the contexts are windows of; other texts have no window in common with them.
    """

    def __init__(
        self, target: Path = EXAMPLES / "demo_pair" / "target", draft: Path = EXAMPLES / "demo_pair" / "draft",
        contexts: int = 256, texts: slice = slice(None),
    ) -> None:  # fmt: skip
        self._target, self._draft = _model(target), _model(draft)
        found_IC = _contexts(target)[:, texts].flatten(0, 1)
        self.context_IC = found_IC[torch.linspace(0, len(found_IC) - 1, min(contexts, len(found_IC))).long()]
        self._parts = self.context_IC.split(ROWS)
        self._targets = [Reader(self._target, part_BC) for part_BC in self._parts]
        self._drafts = [Reader(self._draft, part_BC) for part_BC in self._parts]

    @property
    def parts(self) -> range:
        """The numbers of the parts that the contexts are worked on in."""
        return range(len(self._parts))

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._target.config.vocab_size)

    @cache  # noqa: B019 - as long as the pair lives
    def unigram(self, temperature: float) -> torch.Tensor:
        """Return the mean of the target's laws behind all contexts, float32 [V]."""
        # Not by the readers, which may be in the middle of a round.
        with torch.inference_mode():
            logits = [self._target(part_BC, logits_to_keep=1).logits for part_BC in self._parts]
        return _laws(torch.cat(logits), temperature).mean((0, 1))

    def root_laws(self, temperature: float, part: int, blend: Blend = Blend()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the laws of target and draft behind the contexts of a part, [B, V] each."""
        root, tokens_B1 = DraftTree.chain(0), self._parts[part][:, -1:]
        target_BV = _laws(self._targets[part].logits(root, tokens_B1), temperature)[:, 0]
        draft_BV = _laws(self._drafts[part].logits(root, tokens_B1), temperature)[:, 0]
        return target_BV, self.blended(draft_BV, target_BV, blend, temperature)

    def rounds(
        self, tree: DraftTree, rule: str, temperature: float = 1.0, blend: Blend = Blend(), turns: int = 1
    ) -> Iterator[Drawn]:  # fmt: skip
        """Yield rounds behind all contexts, drawn as a rule draws: the contexts in parts, and so often the whole.

        Args:
            tree: The topology of the drafts.
            rule: A rule that takes the tree; rules of the same drawing may select of the same rounds.
            temperature: Of both models, above 0.
            blend: What the draft's law is blended with.
            turns: How often every context is drawn from, each time with other noise.
        """
        for turn in range(turns):
            for part in self.parts:
                yield self._round(tree, rule, temperature, blend, turn, part)

    def noise(self, part: int, turn: int) -> Noise:
        """Return the noise of the rounds behind the contexts of a part."""
        rows = len(self._parts[part])
        return Noise(part * ROWS + torch.arange(rows), torch.full((rows,), 1000 * turn))

    def readers(self, part: int) -> tuple[Reader, Reader, torch.Tensor]:
        """Return the target and the draft behind the contexts of a part, and the contexts' last tokens [B, 1]."""
        return self._targets[part], self._drafts[part], self._parts[part][:, -1:]

    def _round(self, tree: DraftTree, rule: str, temperature: float, blend: Blend, turn: int, part: int) -> Drawn:
        noise = self.noise(part, turn)
        tokens_BN, targets, drafts = self._parts[part][:, -1:], list[torch.Tensor](), list[torch.Tensor]()
        for depth, level in enumerate(tree.levels):
            targets.append(_laws(self._targets[part].logits(tree, tokens_BN, level.start), temperature))
            if depth < tree.depth:
                draft_BMV = _laws(self._drafts[part].logits(tree, tokens_BN, level.start), temperature)
                drafts.append(self.blended(draft_BMV, targets[-1], blend, temperature))
                tokens_BN = torch.cat([tokens_BN, draw(rule, tree, depth + 1, drafts[-1], noise)], 1)
        draft_BPV = torch.cat([*drafts, targets[0][:, :0]], 1)[:, : tree.inner]
        return Drawn(tree, tokens_BN, torch.cat(targets, 1), draft_BPV, noise)

    def blended(
        self, draft_XV: torch.Tensor, target_XV: torch.Tensor, blend: Blend, temperature: float
    ) -> torch.Tensor:
        """Return laws of the draft as a blend has them, given the target's where it goes toward the target."""
        if blend.flatter != 1:
            draft_XV = (draft_XV.log() / blend.flatter).softmax(-1)
        if not blend.weight:
            return draft_XV
        other_XV = target_XV if blend.toward == "target" else self.unigram(temperature).expand_as(draft_XV)
        return torch.lerp(draft_XV, other_XV, blend.weight)


def tokens_per_round(
    pair: SimulatedPair, tree: DraftTree, rules: Sequence[str], temperature: float = 1.0,
    blend: Blend = Blend(), turns: int = 1,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Return for every rule the tokens of each round, float64 [S]; rules that draw alike see the same drafts.

    A rule that does not take the tree is left out.
    """
    counts: dict[str, list[torch.Tensor]] = {rule: [] for rule in rules if _takes(rule, tree)}
    for some in drawn_alike(tree, rules):
        for drawn in pair.rounds(tree, some[0], temperature, blend, turns):
            for rule in some:
                counts[rule].append(1 + drawn.select(rule).count_B.double())
    return {rule: torch.cat(found) for rule, found in counts.items()}


def drawn_alike(tree: DraftTree, rules: Sequence[str]) -> list[list[str]]:
    """Return the rules that take a tree, those together that draw its tokens alike."""
    alike: dict[object, list[str]] = {}
    for rule in rules:
        if _takes(rule, tree):
            alike.setdefault(RULES[rule].draw, []).append(rule)
    return list(alike.values())


def mean_and_error(count_S: torch.Tensor) -> tuple[float, float]:
    """Return the mean and its standard error, rounded for a result file."""
    return round(float(count_S.mean()), 4), round(float(count_S.std()) / len(count_S) ** 0.5, 4)


def _takes(rule: str, tree: DraftTree) -> bool:
    try:
        RULES[rule].check_tree(tree)
    except ValueError:
        return False
    return True


def _laws(logits_BNV: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits_BNV / temperature).softmax(2)


@cache
def _model(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-any-return]


@cache
def _contexts(folder: Path) -> torch.Tensor:
    """Return windows of what the target writes after every demo prompt that is long enough; int64, by text and C."""
    target = _model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    texts = [tokenizer.encode(record.get("prompt") or record["body"]["prompt"]) for record in records]
    tokens_BT = torch.tensor([text[-WINDOW:] for text in texts if len(text) >= WINDOW])
    generator, past = torch.Generator().manual_seed(0), DynamicCache(config=target.config)
    fed_BT = tokens_BT
    for _ in range(WRITTEN):
        with torch.inference_mode():
            logits_BV = target(input_ids=fed_BT, past_key_values=past, use_cache=True, logits_to_keep=1).logits[:, -1]
        fed_BT = torch.multinomial(logits_BV.softmax(1), 1, generator=generator)
        tokens_BT = torch.cat([tokens_BT, fed_BT], 1)
    return torch.stack([tokens_BT[:, first : first + WINDOW] for first in range(0, WRITTEN + 1, STEP)])
