"""The randomness of decoding: a pure function of (row seed, text position, role, node), without a generator's state.

So a row draws the same numbers in every batch, and two rows with different seeds draw independent ones.
"""

# B rows, N tags, C numbers, F numbers of all families, K candidates, M families, V vocabulary, W nodes of a level.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch

from spectr_select.chance import Role
from spectr_select.law import arrivals, sample
from spectr_select.philox import halves, philox
from spectr_select.splitmix import number_at, stream
from spectr_select.tree import Families, as_index

_NODE_BITS = 24
# In small batches the first numbers of many nodes are computed together: a call of Philox is some 80 tensor operations,
# and on small tensors their number costs more than their size.
_TABLE_NODES = 32
_TABLE_COUNT = 8
_TABLE_ROWS = 512
# The largest float32 below 1, divided by the largest magnitude of an int64.
_STEP = (1 - 2.0**-24) * 2.0**-63


@dataclass(frozen=True, slots=True)
class Noise:
    """The noise of one round, a ``Chance``.

    Numbers come from Philox 4x32-10 with the row's seed as its key and (position, role and node, block, 0) as its
    counter. Where every token of the vocabulary needs one, they come from SplitMix64, which is cheaper: the number of
    the seed's stream at the position is a key, that of the key's stream at (role and node) another, and the second
    key's stream are the numbers. Numbers that are asked for more than once are kept.

    Attributes:
        seed_B: The seeds of the rows, int64; see ``seed_of``.
        position_B: The text positions of the rows' roots, int64, so that every round of a row has noise of its own.
        certain: Whether all laws of the round are point masses. A race among one token has one outcome at all times, so
            none are computed.

    Raises:
        ValueError: Seeds and positions are not int64 vectors of one length on one device.
    """

    seed_B: torch.Tensor
    position_B: torch.Tensor
    certain: bool = False
    _tables: dict[int, torch.Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    _races: dict[tuple[int, int], torch.Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)
    _portions: dict[tuple[int, int], Noise] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        seeds, positions = self.seed_B, self.position_B
        if seeds.dtype != torch.int64 or positions.dtype != torch.int64:
            raise ValueError(f"Seeds and positions must be int64; got {seeds.dtype} and {positions.dtype}.")
        if seeds.ndim != 1 or seeds.shape != positions.shape or seeds.device != positions.device:
            raise ValueError(
                "Seeds and positions must be vectors of one length on one device; "
                f"got {list(seeds.shape)} on {seeds.device} and {list(positions.shape)} on {positions.device}."
            )

    def portion(self, rows: slice) -> Noise:
        """Return the noise of some of the rows; the same object every time, since it keeps the numbers of a race."""
        if rows == slice(0, len(self.seed_B)):
            return self
        bounds = rows.start, rows.stop
        if bounds not in self._portions:
            self._portions[bounds] = Noise(self.seed_B[rows], self.position_B[rows], self.certain)
        return self._portions[bounds]

    def uniform(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Return uniform numbers in [0, 1) of 53 random bits; float64 [B, C]."""
        if role is not Role.RACE and count <= _TABLE_COUNT and len(self.seed_B) <= _TABLE_ROWS:
            _check_node(node)
            page, entry = divmod(node, _TABLE_NODES)
            return self._table(page)[:, role * _TABLE_NODES + entry, :count]
        return _uniform(*self._words(role, node, count))

    def exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Return exponential numbers of mean 1, positive and precise where small; float32 [B, C].

        Each is made of 63 random bits and rounded to float32, so that small ones are as fine as others: a token of a
        probability of 2^-60 still wins a race as often as it should.

        For ``Role.RACE`` the argument ``node`` is a depth, and the numbers belong to the text position (root position +
        depth): the race for a token is the same in every round, tree and node. A round asks for its numbers once for
        every parent and once more to select, so they are kept. Do not write to the result.
        """
        if role is not Role.RACE:
            return self._exponential(role, node, count)
        if self.certain:
            return torch.ones((), device=self.seed_B.device).expand(len(self.seed_B), count)
        if (node, count) not in self._races:
            self._races[node, count] = self._exponential(role, node, count)
        return self._races[node, count]

    def first(self, node: int, accept_BK: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        count = accept_BK.shape[1]
        success_BK = self.uniform(Role.ACCEPT, node, count) < accept_BK
        # argmax returns the first of equal values, and the sentinel if all K coins fail.
        sentinel_B1 = torch.ones_like(success_BK[:, :1])
        return torch.cat([success_BK, sentinel_B1], 1).int().argmax(1)

    def pick(self, role: Role, node: int, law_BV: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        return sample(law_BV, self.uniform(role, node, 1)[:, 0])

    def picks(self, families: Families, law_BMV: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        count = max(map(len, families))
        u_BMC = torch.stack([self.uniform(Role.DRAFT, nodes[0], count) for nodes in families], 1)
        token_BF = sample(law_BMV.flatten(0, 1), u_BMC.flatten(0, 1)).view(len(law_BMV), -1)
        if count * len(families) == sum(map(len, families)):
            return token_BF
        drawn = (family * count + child for family, nodes in enumerate(families) for child in range(len(nodes)))
        return token_BF.index_select(1, as_index(drawn, token_BF.device))

    def order(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """See ``Chance``."""
        return arrivals(law_BV, self.exponential(Role.DRAFT, node, law_BV.shape[1]), count)

    def _exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        position_B, tag = self._place(role, node)
        share_BC = stream(number_at(number_at(self.seed_B, position_B), tag), count).float().abs_()
        # Neither end of [0, 1] occurs: the time 0 would not keep a token of weight zero from arriving, and 1 would give
        # an infinite time. Half a unit is added for the one, and the step is a little short for the other.
        return share_BC.add_(0.5).mul_(-_STEP).log1p_().neg_()

    def _table(self, page: int) -> torch.Tensor:
        """Return the first numbers of a page of nodes for every role but the race; float64 [B, roles * nodes, C]."""
        if page not in self._tables:
            role_R1 = torch.arange(Role.RACE, device=self.seed_B.device)[:, None]
            node_N = torch.arange(page * _TABLE_NODES, (page + 1) * _TABLE_NODES, device=self.seed_B.device)
            tag_N1 = (role_R1 << _NODE_BITS | node_N).flatten()[:, None]
            self._tables[page] = _uniform(*self._words_at(self.position_B, tag_N1, _TABLE_COUNT))
        return self._tables[page]

    def _place(self, role: Role, node: int) -> tuple[torch.Tensor, int]:
        """Return the positions that a node's numbers belong to, and what tells them from others there."""
        _check_node(node)
        if role is Role.RACE:
            return self.position_B + node, role << _NODE_BITS
        return self.position_B, role << _NODE_BITS | node

    def _words(self, role: Role, node: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        position_B, tag = self._place(role, node)
        high_BNC, low_BNC = self._words_at(position_B, torch.full((1, 1), tag, device=self.seed_B.device), count)
        return high_BNC[:, 0], low_BNC[:, 0]

    def _words_at(
        self, position_B: torch.Tensor, tag_N1: torch.Tensor, count: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return two words for each of ``count`` numbers of every tag; [B, N, C] each."""
        block_C = torch.arange((count + 1) // 2, device=self.seed_B.device)
        low_position, _ = halves(position_B[:, None, None])
        zero = torch.zeros_like(block_C)
        words = philox((low_position, tag_N1, block_C, zero), halves(self.seed_B[:, None, None]))
        high = torch.stack((words[0], words[2]), -1).flatten(-2)[..., :count]
        low = torch.stack((words[1], words[3]), -1).flatten(-2)[..., :count]
        return high, low


def _check_node(node: int) -> None:
    if not 0 <= node < 2**_NODE_BITS:
        raise ValueError(f"Node {node} has no noise; nodes must be 0 to {2**_NODE_BITS - 1}.")


def _uniform(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    return ((high >> 5) * 2**26 + (low >> 6)).double() * 2.0**-53


def seed_of(run_seed: int, key: str, sample: int = 0) -> int:
    """Return the seed of a request's noise: 64 bits of BLAKE2b over (run seed, sample index, record key), signed."""
    digest = blake2b(f"{run_seed}:{sample}:{key}".encode(), digest_size=8, person=b"spectr-noise")
    return int.from_bytes(digest.digest(), "little", signed=True)


def seed_of_prompt(seed: int, token_ids: Sequence[int], sample: int = 0) -> int:
    """Return the seed of a request's noise where the request names a seed of its own.

    It does not depend on the record's id, so equal requests give equal texts. It depends on the prompt, so that
    different prompts with one seed, which is common, stay independent.

    Args:
        seed: The seed that the request names.
        token_ids: Tokens of the prompt.
        sample: Which of several completions of the prompt this is.

    Returns:
        64 bits of BLAKE2b over the three, signed.
    """
    text = f"{seed}:{sample}:{','.join(map(str, token_ids))}"
    digest = blake2b(text.encode(), digest_size=8, person=b"spectr-prompt")
    return int.from_bytes(digest.digest(), "little", signed=True)
