"""The rows of the batch as a round is told of them: its shape, and one parcel of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

from spectr_runtime.laws.sampling import RowSampling
from spectr_runtime.laws.written import penalties
from spectr_runtime.replay.sizes import padded_count, padded_length, padded_rows
from spectr_runtime.replay.transfer import Parcel
from spectr_runtime.rows.ranges import MOST_LOGPROBS
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.offers import Offers, gives, limit_of, nodes_of
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.shape import Shape


class Carried(NamedTuple):
    """The rows whose texts the device knows, since they took part in the round before.

    Attributes:
        rows: Their indices.
        growth: How many tokens each may have written there that the host does not know yet.
    """

    rows: Collection[int]
    growth: int


NOTHING = Carried((), 0)


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """How large rounds are made.

    Attributes:
        most_rows: Number of rows of the batch.
        longest: Tokens of the longest text that a row can have.
        padded: Whether rounds are padded to a few sizes.
        call_tokens: If it is not None, every round has all rows and the attention of the longest text, and feeds the
            target so many tokens a row.
    """

    most_rows: int
    longest: int
    padded: bool = False
    call_tokens: int | None = None

    def rows(self, rows: int) -> int:
        """Return the number of rows of a round in which so many are needed."""
        if self.call_tokens is not None:
            return self.most_rows
        return padded_rows(rows, self.most_rows) if self.padded else rows

    def length(self, length: int) -> int:
        """Return the length of the longest text that a round is made for, if so much is needed."""
        if self.call_tokens is not None:
            return self.longest
        return padded_length(length, self.longest) if self.padded else length

    def indices(self, rows: Iterable[bool], count: int) -> list[int]:
        """Return the indices of rows that something is computed for; the first one fills up, and is computed again."""
        found = [index for index, wanted in enumerate(rows) if wanted]
        if not found or not (self.padded or self.call_tokens is not None):
            return found
        most = padded_count(len(found), count) if self.call_tokens is None else count
        return found + [found[0]] * (most - len(found))

    def most_scored(self, wanted: Iterable[int | None]) -> int:
        """Return how many of the most probable tokens are looked for: equal ones are told apart by how many that are.

        Args:
            wanted: How many each row wants; None if it wants no log-probabilities.
        """
        most = max((one for one in wanted if one is not None), default=None)
        if most is None or not (self.padded or self.call_tokens is not None):
            return most or 0
        return MOST_LOGPROBS


class Batching:
    """Makes the parcel of every round. What follows from the parameters of rows is made anew when the rows change.

    Args:
        vocabulary: Number of tokens of the vocabulary.
        headed: Whether the draft is a head on the target.
    """

    def __init__(self, vocabulary: int, *, headed: bool = False) -> None:
        self._headed = headed
        self._vocabulary = vocabulary
        self._batch: list[Row | None] = []
        self._sizes: Sizes | None = None
        self._params: list[SamplingParams] = []
        self._static: tuple[Parcel, dict[str, Any]]

    def pack(
        self,
        batch: Sequence[Row | None],
        behind: Collection[int],
        plan: Plan,
        offers: Offers,
        sizes: Sizes,
        carried: Carried = NOTHING,
    ) -> tuple[Shape, Parcel]:
        """Return the shape of a round, and what it is told.

        Some of its rows take no part: nobody reads what they decode, and they write where the caches hold nothing of
        their texts. A free row decodes a text of one token, and a row that is still read one that goes on where its
        caches end.

        Args:
            batch: The rows by their index in the caches, at least one; None for a free one.
            behind: The indices of rows that are still read.
            plan: The plan of the round.
            offers: What is given to the rows.
            sizes: How large the round is made.
            carried: The rows whose texts the device knows from the round before.
        """
        batch = [*batch, *[None] * (sizes.rows(len(batch)) - len(batch))]
        offers = [*offers, *[None] * (len(batch) - len(offers))]
        if [*map(id, batch)] != [*map(id, self._batch)] or sizes != self._sizes:
            # Nobody reads the tokens of a free row. With another's temperature, rows may be greedy all together.
            idle = SamplingParams(temperature=next(row.request.params.temperature for row in batch if row is not None))
            self._params = [idle if row is None else row.request.params for row in batch]
            self._batch, self._sizes = batch, sizes
            self._static = self._sampled(sizes)
        lengths = [_length(row, index in behind) for index, row in enumerate(batch)]
        needed = [
            min(length + carried.growth, row.limit) if row is not None and index in carried.rows else length
            for index, (row, length) in enumerate(zip(batch, lengths, strict=True))
        ]
        parcel = Parcel()
        self._add_texts(parcel, lengths, behind, carried)
        sampling, sampled = self._static
        parcel.append(sampling)
        shape = Shape(
            plan=plan,
            rows=len(batch),
            longest=sizes.length(max(needed)),
            tokens=max(sizes.call_tokens or 0, plan.tree.size),
            given=_add_given(parcel, batch, plan, offers),
            fresh=self._add_fresh(parcel, lengths, max(carried.growth, sizes.call_tokens or 1)) if self._headed else 0,
            **sampled,
        )
        return shape, parcel

    def _add_texts(self, parcel: Parcel, lengths: Sequence[int], behind: Collection[int], carried: Carried) -> None:
        """Add what tells the texts of rows."""
        facts = [(0, 0, 0, 1, 0) if row is None else _facts(row) for row in self._batch]
        before, last, seed, limit, prompt = zip(*facts, strict=True)
        count = len(lengths)
        taking = [row is not None and index not in behind for index, row in enumerate(self._batch)]
        parcel.integers("texts", [*lengths, *before, *last, *seed, *limit, *prompt], 6, count)
        known = [index in carried.rows for index in range(count)]
        unread = known if carried.growth else [False] * count
        parcel.integers("flags", [*known, *taking, *unread], 3, count)

    def _sampled(self, sizes: Sizes) -> tuple[Parcel, dict[str, Any]]:
        """Return the parameters of sampling, and what a shape says of them."""
        params, count = self._params, len(self._params)
        rows = [RowSampling.of(one, self._vocabulary) for one in params]
        indices = {
            "truncated": sizes.indices((one.truncates for one in params), count),
            "adjusted": sizes.indices((one.adjusts for one in params), count),
            "scored": sizes.indices((one.logprobs is not None for one in params), count),
        }
        greedy, parcel = [row.greedy for row in rows], Parcel()
        wholes = [*greedy, *(row.top_k for row in rows), *(one.min_tokens for one in params)]
        parcel.integers("wholes", wholes, 3, count)
        shares = [
            (row.temperature, row.top_p, row.min_p, *penalties(one)) for row, one in zip(rows, params, strict=True)
        ]
        parcel.numbers("numbers", [value for column in zip(*shares, strict=True) for value in column], 6, count)
        for name, found in indices.items():
            parcel.integers(name, found)
        sampled = {name: len(found) for name, found in indices.items()}
        sampled["most_scored"] = sizes.most_scored(one.logprobs for one in params)
        return parcel, {**sampled, "greedy": "all" if all(greedy) else "some" if any(greedy) else "none"}

    def _add_fresh(self, parcel: Parcel, lengths: Sequence[int], least: int) -> int:
        """Add the tokens that a head was not fed, of rows of some lengths, and return how many it is fed of each.

        Those that the host does not know yet are put in their place on the device.
        """
        counts, tokens = list[int](), list[Sequence[int]]()
        for row, length in zip(self._batch, lengths, strict=True):
            count = 1 if row is None else max(length - 1 - row.cached["draft"], 1)
            counts.append(count)
            tokens.append((0,) if row is None else row.tokens[length - count : length])
        most = max(*counts, least)
        padded = [(*some, *[0] * (most - len(some))) for some in tokens]
        parcel.integers("fresh", [token for some in padded for token in some], len(padded), most)
        parcel.integers("fresh_count", counts)
        return most


def _add_given(
    parcel: Parcel, batch: Sequence[Row | None], plan: Plan, offers: Offers
) -> Literal["no", "yes", "plain"]:
    """Add what is given to rows, if something is."""
    if not gives(plan, offers):
        return "no"
    limits = [limit_of(plan, row, offer) for row, offer in zip(batch, offers, strict=True)]
    parcel.integers("given", [token for offer in offers for token in nodes_of(plan, offer)], len(batch), plan.tree.size)
    parcel.integers("given_limit", limits)
    return "plain" if 0 in limits else "yes"


def _length(row: Row | None, behind: bool) -> int:
    if row is None:
        return 1
    held = max(row.cached["target"] + 1, row.cached["draft"] + 2)  # a round feeds the last tokens of a text
    return min(held, row.length) if behind else row.length


def _facts(row: Row) -> tuple[int, int, int, int, int]:
    """Return the last two tokens of a row, its seed, its limit and the length of its prompt."""
    return (*row.last, row.seed, row.limit, len(row.prompt))
