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
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, PreTrainedModel

from spectr_select import RULES, DraftTree, Noise, Selection, draw, select

# B rows, C context tokens, I contexts, M nodes of a level, N nodes, P nodes with a draft law, S rounds, V vocabulary.
EXAMPLES = Path(__file__).parent.parent / "examples"
ROWS = 32  # contexts at a time
WINDOW, WRITTEN, STEP = 64, 64, 16  # tokens of a context, written behind a prompt, between two contexts


@dataclasses.dataclass(frozen=True, slots=True)
class Blend:
    """Another law for the draft: ``(1 - weight) draft + weight other``.

    Attributes:
        weight: 0 to 1.
        toward: The other law: ``target``, the target's own after the same text, or ``unigram``, the mean of the
            target's laws behind all contexts, which knows nothing of the text.
    """

    weight: float = 0.0
    toward: str = "target"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or self.toward not in ("target", "unigram"):
            raise ValueError(f"{self} is no blend; the weight is 0 to 1, and toward is target or unigram.")


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

    def logits(self, tree: DraftTree, tokens_BN: torch.Tensor, held: int = 0) -> torch.Tensor:
        """Return the logits after some leading nodes of a tree, as many as tokens are given; float32 [B, N - held, V].

        Args:
            tree: The topology.
            tokens_BN: The tokens of the leading nodes.
            held: How many of them the call before has read, in the same tree; these are not read again.
        """
        nodes = tokens_BN.shape[1]
        if left := self._cache.get_seq_length() - self._read - held:
            self._cache.crop(-left)
        seen_NN = tree.ancestors("cpu")[held:nodes, :nodes]
        seen_NT = torch.cat([torch.ones((nodes - held, self._read), dtype=torch.bool), seen_NN], 1)
        mask_B1NT = torch.where(seen_NT, 0.0, torch.finfo(torch.float32).min).expand(len(tokens_BN), 1, -1, -1)
        places_1N = self._read + torch.tensor([tree.depths[held:nodes]])
        with torch.inference_mode():
            return self._model(  # type: ignore[no-any-return]
                input_ids=tokens_BN[:, held:], attention_mask=mask_B1NT, position_ids=places_1N,
                past_key_values=self._cache, use_cache=True,
            ).logits  # fmt: skip


class SimulatedPair:
    """A target and a draft of one vocabulary, and contexts that both have read.

    Args:
        target: The folder of the target.
        draft: The folder of the draft.
        contexts: How many contexts are taken, evenly over all that there are.
    """

    def __init__(
        self, target: Path = EXAMPLES / "demo_pair" / "target", draft: Path = EXAMPLES / "demo_pair" / "draft",
        contexts: int = 256,
    ) -> None:  # fmt: skip
        self._target = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
        self._draft = AutoModelForCausalLM.from_pretrained(draft, dtype=torch.float32).eval()
        found_IC = _contexts(self._target, target)
        self.context_IC = found_IC[torch.linspace(0, len(found_IC) - 1, min(contexts, len(found_IC))).long()]
        self._parts = self.context_IC.split(ROWS)
        self._targets = [Reader(self._target, part_BC) for part_BC in self._parts]
        self._drafts = [Reader(self._draft, part_BC) for part_BC in self._parts]

    @property
    def vocabulary(self) -> int:
        """The number of tokens."""
        return int(self._target.config.vocab_size)

    @property
    def parts(self) -> int:
        """The number of parts that contexts are worked on in."""
        return len(self._parts)

    @cache  # noqa: B019 - as long as the pair lives
    def unigram(self, temperature: float) -> torch.Tensor:
        """Return the mean of the target's laws behind all contexts, float32 [V]."""
        laws = [self.root_laws(temperature, part)[0] for part in range(len(self._parts))]
        return torch.cat(laws).mean(0)

    def root_laws(self, temperature: float, part: int, blend: Blend = Blend()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the laws of target and draft behind the contexts of a part, [B, V] each."""
        root, tokens_B1 = DraftTree.chain(0), self._parts[part][:, -1:]
        target_BV = _laws(self._targets[part].logits(root, tokens_B1), temperature)[:, 0]
        draft_BV = _laws(self._drafts[part].logits(root, tokens_B1), temperature)[:, 0]
        return target_BV, self._blended(draft_BV, target_BV, blend, temperature)

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
            for part in range(len(self._parts)):
                yield self._round(tree, rule, temperature, blend, turn, part)

    def _round(self, tree: DraftTree, rule: str, temperature: float, blend: Blend, turn: int, part: int) -> Drawn:
        rows = len(self._parts[part])
        noise = Noise(part * ROWS + torch.arange(rows), torch.full((rows,), 1000 * turn))
        tokens_BN, targets, drafts = self._parts[part][:, -1:], list[torch.Tensor](), list[torch.Tensor]()
        for depth, level in enumerate(tree.levels):
            targets.append(_laws(self._targets[part].logits(tree, tokens_BN, level.start), temperature))
            if depth < tree.depth:
                draft_BMV = _laws(self._drafts[part].logits(tree, tokens_BN, level.start), temperature)
                drafts.append(self._blended(draft_BMV, targets[-1], blend, temperature))
                tokens_BN = torch.cat([tokens_BN, draw(rule, tree, depth + 1, drafts[-1], noise)], 1)
        draft_BPV = torch.cat([*drafts, targets[0][:, :0]], 1)[:, : tree.inner]
        return Drawn(tree, tokens_BN, torch.cat(targets, 1), draft_BPV, noise)

    def _blended(
        self, draft_XV: torch.Tensor, target_XV: torch.Tensor, blend: Blend, temperature: float
    ) -> torch.Tensor:
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
    takers = [rule for rule in rules if _takes(rule, tree)]
    alike: dict[object, list[str]] = {}
    for rule in takers:
        alike.setdefault(RULES[rule].draw, []).append(rule)
    counts: dict[str, list[torch.Tensor]] = {rule: [] for rule in takers}
    for some in alike.values():
        for drawn in pair.rounds(tree, some[0], temperature, blend, turns):
            for rule in some:
                counts[rule].append(1 + drawn.select(rule).count_B.double())
    return {rule: torch.cat(found) for rule, found in counts.items()}


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


def _contexts(target: PreTrainedModel, folder: Path) -> torch.Tensor:
    """Return windows of what the target writes after every demo prompt that is long enough, int64 [I, C]."""
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
    return torch.cat([tokens_BT[:, first : first + WINDOW] for first in range(0, WRITTEN + 1, STEP)])
