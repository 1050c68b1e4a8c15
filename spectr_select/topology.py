"""The choice of a tree, given how often siblings of each rank are accepted.

The first child of a node has rank 0, the second rank 1, and so on. A rank law P gives, for each rank r, the probability
that the child of rank r of an accepted node is the accepted child, whatever came before. A drafted node is then
accepted with the product of P along its path.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Sequence

from spectr_select.tree import DraftTree


def best_tree(rank_law: Sequence[float], nodes: int) -> DraftTree:
    """Return the tree of the given number of drafts with the most expected tokens: its most probable nodes (Tunstall).

    The search takes time ``n log n``: for every node taken, a heap holds its first child and its next sibling.

    Args:
        rank_law: P, non-increasing; a node gets at most as many children as P has ranks.
        nodes: The number of drafts, at least 0.

    Raises:
        ValueError: P is not a rank law, or ``nodes`` is negative.
    """
    _check(rank_law)
    if nodes < 0:
        raise ValueError(f"A tree of {nodes} drafts does not exist; nodes must be at least 0.")
    # Entries are (cost, parent, rank). The cost is minus the node's probability, because a heap yields the smallest
    # entry; nodes are numbered in the order in which they are taken.
    heap: list[tuple[float, int, int]] = [(-rank_law[0], 0, 0)]
    costs, parents, depths = [-1.0], [-1], [0]
    for taken in range(1, nodes + 1):
        cost, parent, rank = heapq.heappop(heap)
        costs.append(cost)
        parents.append(parent)
        depths.append(depths[parent] + 1)
        heapq.heappush(heap, (cost * rank_law[0], taken, 0))
        if rank + 1 < len(rank_law):
            heapq.heappush(heap, (costs[parent] * rank_law[rank + 1], parent, rank + 1))
    # Sorting is stable, so siblings keep the order in which they were taken, which is that of their ranks.
    by_level = sorted(range(nodes + 1), key=depths.__getitem__)
    number = {taken: node for node, taken in enumerate(by_level)}
    return DraftTree((-1, *(number[parents[taken]] for taken in by_level[1:])))


def expected_tokens(rank_law: Sequence[float], tree: DraftTree) -> float:
    """Return the expected tokens of a round: 1 plus the probability of every draft that it is accepted.

    Raises:
        ValueError: ``rank_law`` is not a rank law.
    """
    _check(rank_law)
    reached, children = [1.0], [0] * tree.size
    for parent in tree.parents[1:]:
        rank = children[parent]
        children[parent] += 1
        reached.append(reached[parent] * (rank_law[rank] if rank < len(rank_law) else 0.0))
    return math.fsum(reached)


def tokens_bound(rank_law: Sequence[float], vocabulary: int, drafts: int) -> float:
    """Return an upper bound of the expected tokens for any tree of k drafts (ERSD, arXiv 2504.15475).

    The bound is ``(ln V + ln(k + 1)) / H[R]``, where H is the entropy of the accepted rank R.

    Args:
        rank_law: P over all ranks, with sum 1.
        vocabulary: The number of tokens V.
        drafts: The number of drafts k of a round.

    Raises:
        ValueError: ``rank_law`` is not a rank law, or its sum is not 1.
    """
    _check(rank_law)
    if abs(math.fsum(rank_law) - 1) > 1e-6:
        raise ValueError(f"The bound needs a rank law over all ranks, of sum 1; got the sum {math.fsum(rank_law)}.")
    entropy = -math.fsum(chance * math.log(chance) for chance in rank_law if chance > 0)
    return (math.log(vocabulary) + math.log(drafts + 1)) / entropy if entropy > 0 else math.inf


def _check(rank_law: Sequence[float]) -> None:
    falling = all(first >= second for first, second in itertools.pairwise(rank_law))
    if not rank_law or not falling or not rank_law[-1] >= 0 or math.fsum(rank_law) > 1 + 1e-6:
        raise ValueError(
            f"A rank law is a non-increasing list of probabilities whose sum is at most 1; got {list(rank_law)}. "
            "Order the siblings by how often they are accepted."
        )
