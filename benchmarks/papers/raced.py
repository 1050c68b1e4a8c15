"""Texts of races and trees for them. Since a race's text does not depend on its drafts, one text measures every tree.

Other scripts import this one. The rank of a token in a text is its place in the draft's race at that position: 0 if the
draft's first child would have been that token, 1 for the second, and so on. A round behind a context accepts what the
text has in common with the tree, which the ranks tell without drawing it.

A tree may also depend on what it is drawn from. ``grown`` gives every row a tree of its own: level by level the draft's
laws are asked for, the children of a node are worth the node's own value times the rank law of nodes whose draft law
has about that entropy, and the best nodes of all are kept.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections.abc import Sequence

import torch

from papers.simulated import Blend, SimulatedPair
from spectr_select import DraftTree
from spectr_select.chance import Role

# B rows, D depth, F nodes whose children are offered, L tokens of a text, N nodes, Q bins, R ranks, S texts,
# V vocabulary, W windows of texts.
RANKS = 16  # siblings that are looked at


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """The temperature of both models, and how much the draft's law is blended with one that knows nothing of the text.

    Attributes:
        temperature: Above 0.
        unigram: The weight of the unigram law, 0 to 1.
    """

    temperature: float
    unigram: float = 0.0

    @property
    def name(self) -> str:
        """The setting in a result file."""
        return f"{self.temperature}, weaker draft" if self.unigram else f"{self.temperature}"

    @property
    def blend(self) -> Blend:
        """What the draft's law is blended with."""
        return Blend(self.unigram, "unigram")

    def draft_law(self, pair: SimulatedPair, logits_XV: torch.Tensor) -> torch.Tensor:
        """Return the laws that siblings are drawn from, given the draft's logits."""
        law_XV = (logits_XV / self.temperature).softmax(-1)
        return pair.blended(law_XV, law_XV, self.blend, self.temperature)


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """What races write behind contexts, and what the draft made of it.

    Attributes:
        token_SL: The tokens, behind all contexts and so often the whole.
        rank_SL: The rank of each token in the draft's race.
        entropy_SL: The entropy of the draft's law before each token, in nats.
    """

    token_SL: torch.Tensor
    rank_SL: torch.Tensor
    entropy_SL: torch.Tensor

    def windows(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ranks of all stretches of a length [W, L], and the draft's entropy where each begins [W]."""
        rank_WL = self.rank_SL.unfold(1, length, 1).flatten(0, 1)
        return rank_WL, self.entropy_SL[:, : self.entropy_SL.shape[1] - length + 1].flatten()


def written(pair: SimulatedPair, setting: Setting, turns: int, length: int) -> Texts:
    """Write texts behind all contexts of a pair, with the noise of its rounds."""
    parts = [_written(pair, setting, turn, part, length) for turn in range(turns) for part in pair.parts]
    return Texts(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _written(
    pair: SimulatedPair, setting: Setting, turn: int, part: int, length: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    target, draft, root_B1 = pair.readers(part)
    noise = pair.noise(part, turn)

    def winner(depth: int, logits_BV: torch.Tensor) -> torch.Tensor:
        time_BV = noise.exponential(Role.RACE, depth, pair.vocabulary)
        return (time_BV / (logits_BV / setting.temperature).softmax(1)).argmin(1)

    text_BL = target.written(root_B1, length, winner)
    law_BLV = setting.draft_law(pair, draft.logits(DraftTree.chain(length), text_BL)[:, :-1])
    ranks = []
    for depth in range(1, length + 1):
        arrival_BV = noise.exponential(Role.RACE, depth, pair.vocabulary) / law_BLV[:, depth - 1]
        ranks.append((arrival_BV < arrival_BV.gather(1, text_BL[:, depth, None])).sum(1))
    return text_BL[:, 1:], torch.stack(ranks, 1), torch.special.entr(law_BLV).sum(2)


def falling(accepted: Sequence[float], offered: Sequence[float]) -> list[float]:
    """Return shares as a rank law: neighbours whose shares rise are pooled."""
    pools: list[tuple[float, float, int]] = []
    for pool in zip(accepted, offered, [1] * len(accepted), strict=True):
        pools.append(pool)
        while len(pools) > 1 and pools[-1][0] * pools[-2][1] > pools[-2][0] * pools[-1][1]:
            last, before = pools.pop(), pools.pop()
            pools.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    return [kept / seen if seen else 0.0 for kept, seen, count in pools for _ in range(count)]


def law_of_ranks(rank: torch.Tensor, ranks: int = RANKS) -> list[float]:
    """Return the rank law of positions, given the rank of the token at each."""
    counts = rank.flatten().clamp(max=ranks).bincount(minlength=ranks + 1)[:ranks].tolist()
    return falling(counts, [rank.numel()] * ranks)


def law_of_paths(tree: DraftTree, accepted_SD: torch.Tensor) -> list[float]:
    """Return the rank law of rounds of one tree, given the accepted nodes: over nodes reached, the root among them."""
    children = _families(tree)
    ranks = max(map(len, children))
    accepted, offered = [0] * ranks, [0] * ranks
    for path in accepted_SD.tolist():
        nodes = [0, *(node for node in path if node > 0)]
        for node in nodes:
            for rank in range(len(children[node])):
                offered[rank] += 1
        for parent, node in itertools.pairwise(nodes):
            accepted[children[parent].index(node)] += 1
    return falling(accepted, offered)


@dataclasses.dataclass(frozen=True, slots=True)
class LawsByEntropy:
    """Rank laws of nodes by the entropy of the draft's law after them.

    Attributes:
        edge_Q: The entropies between two bins, one fewer than there are bins.
        law_QR: The rank law of each bin.
    """

    edge_Q: torch.Tensor
    law_QR: list[list[float]]

    @classmethod
    def of(cls, texts: Texts, bins: int) -> LawsByEntropy:
        """Return the laws of bins that hold as many positions of the texts each."""
        edge_Q = texts.entropy_SL.flatten().quantile(torch.linspace(0, 1, bins + 1)[1:-1])
        bin_SL = torch.bucketize(texts.entropy_SL, edge_Q)
        return cls(edge_Q, [law_of_ranks(texts.rank_SL[bin_SL == number]) for number in range(bins)])


def tree_of_ranks(rank_WL: torch.Tensor, nodes: int) -> DraftTree:
    """Return a tree of the paths that texts follow most often, without a model of how their ranks depend on each other.

    As in ``best_tree``, a heap holds the first child and the next sibling of every node taken.
    """
    everything_W = torch.ones(len(rank_WL), dtype=torch.bool)
    first_W = rank_WL[:, 0] == 0
    heap = [(-int(first_W.sum()), 0, 0, first_W)]  # texts that pass, negative; a node's number would settle ties
    reached, parents, depths = [everything_W], [-1], [0]
    for taken in range(1, nodes + 1):
        _, parent, rank, passing_W = heapq.heappop(heap)
        reached.append(passing_W)
        parents.append(parent)
        depths.append(depths[parent] + 1)
        for node, after in ((taken, 0), (parent, rank + 1)):
            if depths[node] < rank_WL.shape[1] and after < RANKS:
                next_W = reached[node] & (rank_WL[:, depths[node]] == after)
                heapq.heappush(heap, (-int(next_W.sum()), node, after, next_W))
    by_level = sorted(range(nodes + 1), key=depths.__getitem__)
    number = {taken: node for node, taken in enumerate(by_level)}
    return DraftTree((-1, *(number[parents[taken]] for taken in by_level[1:])))


def followed(tree: DraftTree, rank_SL: torch.Tensor) -> torch.Tensor:
    """Return the tokens of the round of a race over a tree at the beginning of every text, float64 [S]."""
    families = _families(tree)
    most = max(map(len, families))
    child_NR = torch.tensor([[*family, *[0] * (most + 1 - len(family))] for family in families])
    node_S = torch.zeros(len(rank_SL), dtype=torch.int64)
    count_S = torch.ones(len(rank_SL), dtype=torch.float64)
    inside_S = torch.ones(len(rank_SL), dtype=torch.bool)
    for rank_S in rank_SL[:, : tree.depth].T:
        node_S = child_NR[node_S, rank_S.clamp(max=most)]
        inside_S &= node_S > 0
        count_S += inside_S
    return count_S


@dataclasses.dataclass(slots=True)
class Growing:
    """The tree of one row while it grows; its nodes are in the order of their levels."""

    tokens: list[int]
    parents: list[int] = dataclasses.field(default_factory=lambda: [-1])
    depths: list[int] = dataclasses.field(default_factory=lambda: [0])
    values: list[float] = dataclasses.field(default_factory=lambda: [1.0])

    def level(self, depth: int) -> list[int]:
        """Return the nodes of a depth."""
        return [node for node, found in enumerate(self.depths) if found == depth]

    def offer(self, node: int, tokens: Sequence[int], law: Sequence[float]) -> None:
        """Add children, the more probable before the others."""
        for token, chance in zip(tokens, law, strict=False):
            self.tokens.append(token)
            self.parents.append(node)
            self.depths.append(self.depths[node] + 1)
            self.values.append(self.values[node] * chance)

    def kept(self, drafts: int) -> Growing:
        """Return the root and the best nodes; none is worth more than its parent, which is therefore among them."""
        best = sorted(sorted(range(len(self.values)), key=lambda node: -self.values[node])[: drafts + 1])
        number = {node: place for place, node in enumerate(best)} | {-1: -1}
        columns = ([column[node] for node in best] for column in (self.tokens, self.parents, self.depths, self.values))
        tokens, parents, depths, values = columns
        return Growing(tokens, [number[parent] for parent in parents], depths, values)

    def follow(self, text: Sequence[int]) -> int:
        """Return the tokens of a round whose text this is."""
        children = {pair: node for node, pair in enumerate(zip(self.parents, self.tokens, strict=True))}
        node, count = 0, 1
        for token in text:
            if (node, token) not in children:
                break
            node, count = children[node, token], count + 1
        return count


def grown(
    pair: SimulatedPair, laws: LawsByEntropy, setting: Setting, turn: int, part: int, drafts: int
) -> list[Growing]:  # fmt: skip
    """Return a tree of so many drafts for every context of a part, each grown by the draft's laws at its own nodes."""
    _, draft, root_B1 = pair.readers(part)
    noise, rows, depth = pair.noise(part, turn), [Growing([token]) for token in root_B1[:, 0].tolist()], 0
    while any(row.level(depth) for row in rows):
        frontier = [row.level(depth) for row in rows]
        node_BF, depth_BN = _padded(frontier), _padded([row.depths for row in rows])
        logits_BNV = draft.logits_seen(_seen(rows), depth_BN, _padded([row.tokens for row in rows]))
        law_BFV = setting.draft_law(pair, logits_BNV[torch.arange(len(rows))[:, None], node_BF])
        time_B1V = noise.exponential(Role.RACE, depth + 1, pair.vocabulary)[:, None]
        children_BFR = (time_B1V / law_BFV).topk(min(RANKS, drafts), largest=False).indices.tolist()
        bin_BF = torch.bucketize(torch.special.entr(law_BFV).sum(2), laws.edge_Q).tolist()
        for row, nodes, children_FR, bin_F in zip(rows, frontier, children_BFR, bin_BF, strict=True):
            for node, children, number in zip(nodes, children_FR, bin_F, strict=False):
                row.offer(node, children, laws.law_QR[number])
        rows, depth = [row.kept(drafts) for row in rows], depth + 1
    return rows


def _families(tree: DraftTree) -> list[list[int]]:
    families: list[list[int]] = [[] for _ in tree.parents]
    for node, parent in enumerate(tree.parents[1:], start=1):
        families[parent].append(node)
    return families


def _padded(numbers: Sequence[Sequence[int]]) -> torch.Tensor:
    most = max(map(len, numbers))
    return torch.tensor([[*row, *[0] * (most - len(row))] for row in numbers])


def _seen(rows: Sequence[Growing]) -> torch.Tensor:
    """Return what the nodes of every row see: themselves and their ancestors, as what pads them does."""
    most = max(len(row.tokens) for row in rows)
    seen_BNN = torch.eye(most, dtype=torch.bool).repeat(len(rows), 1, 1)
    for row, seen_NN in zip(rows, seen_BNN, strict=True):
        for node, parent in enumerate(row.parents[1:], start=1):
            seen_NN[node] |= seen_NN[parent]
    return seen_BNN
