"""Reading what the caches lack of the rows' texts, and scoring the prompts that want it."""

# B rows, C tokens of a chunk, V vocabulary.
from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import torch

from spectr_runtime.bundle import Role
from spectr_runtime.contract import Engine
from spectr_runtime.drafting.head import DraftHead
from spectr_runtime.laws.logprobs import score
from spectr_runtime.reading.counts import Reading
from spectr_runtime.reading.prefill import prefill, prefill_scored
from spectr_runtime.reading.prefixes import PrefixStore
from spectr_runtime.rows.row import Row, Scored

NEIGHBOURS = 64  # the most rows of a reading call
SCORED_LOGITS = 2**25  # the most logits that one call returns to score prompts: 128 MB, and a copy of them


@dataclasses.dataclass(frozen=True, slots=True)
class Calls:
    """What reading calls are like.

    Attributes:
        tokens: The most tokens that a call feeds to a row.
        scored: Of how many tokens a call can return the logits.
        cost: What a call costs beside its tokens, in tokens that could be read instead.
        slots: If it is not None, every call is one row's, feeds so many ``tokens`` and sees so many slots.
    """

    tokens: int
    scored: int
    cost: int
    slots: int | None = None

    @property
    def alike(self) -> bool:
        """Whether a prompt is scored in calls like those that read others, so that these may copy what was read."""
        return self.slots is None or self.scored >= self.tokens


class Reader:
    """Reads texts into the caches of a pair.

    Args:
        target: The target.
        draft: The draft; None where there is none.
        head: The draft, if it is a head on the target; it reads what the target reads, in the same calls.
        prefix_tokens: How many tokens of prefixes that texts may share are kept, for each model; None for as many as
            ``kept_tokens`` says.
        vocabulary: Number of tokens of the vocabulary.
        calls: What its calls are like.

    Attributes:
        counts: How many tokens the target read, and how many were copied.
    """

    def __init__(
        self,
        target: Engine,
        draft: Engine | None,
        head: DraftHead | None,
        prefix_tokens: int | None,
        vocabulary: int,
        calls: Calls,
    ) -> None:
        self._target, self._draft, self._head = target, draft, head
        self._vocabulary, self._calls = vocabulary, calls
        self._device = target.cache.device
        self.counts = Reading()
        own: Mapping[Role, Engine | None] = {"target": target, "draft": None if head is not None else draft}
        kept_by_head = None if head is None else head.cache
        self._prefixes = {
            role: PrefixStore(engine.cache, prefix_tokens, kept_by_head if role == "target" else None)
            for role, engine in own.items()
            if engine is not None
        }

    def trim(self) -> None:
        """Drop the prefixes for which there is no room now."""
        for store in self._prefixes.values():
            store.trim()

    def catch_up(self, feeds_draft: bool, batch: Sequence[Row | None]) -> set[int]:
        """Read what the caches lack of the rows' texts, and return the indices of rows of which they still lack some.

        While some rows could go on, a call's tokens of each other one are read, so that a long text stalls nobody for
        more than a few rounds. If no row can go on, there is nobody to wait for, and all are read to their ends.

        Args:
            feeds_draft: Whether the next round runs the draft.
            batch: The rows by their index in the caches; None for a free one.
        """
        behind = self.behind(feeds_draft, batch)
        if not behind:
            return behind
        stalls = len(behind) < len(batch) - batch.count(None)
        self.prefill(feeds_draft, batch, self._calls.tokens if stalls else None)
        return self.behind(feeds_draft, batch)

    def behind(self, feeds_draft: bool, batch: Sequence[Row | None]) -> set[int]:
        """Return the indices of rows of whose texts the caches lack more than a round feeds.

        The round feeds the last tokens of every text: the root to the target, and the root with the token before it to
        the draft.
        """
        rows = [(index, row) for index, row in enumerate(batch) if row is not None]
        behind = {index for index, row in rows if _lacks(row, "target", 1)}
        if not feeds_draft or self._head is not None:
            return behind
        return behind | {index for index, row in rows if _lacks(row, "draft", 2)}

    def prefill(self, feeds_draft: bool, batch: Sequence[Row | None], most: int | None = None) -> None:
        """Read into the caches what they lack of the rows' texts, or a part of it.

        A row that is not behind is left out. A beginning that was read for another row, in this call or before, is
        copied.

        Args:
            feeds_draft: Whether the next round runs the draft; if not, it reads nothing and falls behind.
            batch: The rows by their index in the caches; None for a free one.
            most: How many tokens of a row are read at most; None for all.
        """
        self._prefill("target", self._target, 1, batch, most)
        if feeds_draft and self._draft is not None and self._head is None:
            self._prefill("draft", self._draft, 2, batch, most)

    def _prefill(self, role: Role, engine: Engine, left: int, batch: Sequence[Row | None], most: int | None) -> None:
        behind = {index: row for index, row in enumerate(batch) if row is not None and _lacks(row, role, left)}
        prompts = {index: _shareable(row) for index, row in behind.items()}
        for stage in self._prefixes[role].stages(prompts, lambda index: behind[index].cached[role], self._calls.cost):
            copied = sum(max(held - behind[index].cached[role], 0) for index, held in stage.items())
            for index, held in stage.items():
                # A head is to be given the target's state of the token before the first one that it reads.
                last = 0 if self._head is None or held <= behind[index].cached[role] else 1
                behind[index].cached[role] = max(held - last, behind[index].cached[role])
            ready = {index: behind[index] for index in stage if _lacks(behind[index], role, left)}
            read, calls = self._read(role, engine, [ready.get(index) for index in range(len(batch))], most)
            self.counts.calls += calls
            if role == "target":
                self.counts.copied += copied
                self.counts.read += read

    def _read(self, role: Role, engine: Engine, lacking: Sequence[Row | None], most: int | None) -> tuple[int, int]:
        """Read rows, at most so many tokens of each; return how many of all were read, and in how many calls."""
        read = calls = 0
        for start, run in self._runs(lacking):
            missing = [row.length - 1 - row.cached[role] for row in run]
            if most is not None:
                # Where all calls begin at multiples of their tokens, what one reads ends at such a multiple too.
                over = [0 if self._calls.slots is None else row.cached[role] % most for row in run]
                missing = [min(tokens, most - held) for tokens, held in zip(missing, over, strict=True)]
            for part in groups(missing, self._calls.cost):
                rows, cached = run[part], [row.cached[role] for row in run[part]]
                for row, tokens in zip(rows, missing[part], strict=True):
                    row.cached[role] += tokens
                    if self._head is not None:
                        row.cached["draft"] = row.cached[role]
                texts = [row.tokens[: row.cached[role] + 1] for row in rows]
                place = start + part.start, self._calls.tokens, self._device
                calls += prefill(engine, texts, cached, *place, self._head, self._calls.slots)
            read += sum(missing)
        return read, calls

    def _runs(self, batch: Sequence[Row | None]) -> Iterator[tuple[int, list[Row]]]:
        """Yield the runs of neighbouring rows, which one call can serve: the index of the first one, and the rows."""
        present = [(index, row) for index, row in enumerate(batch) if row is not None]
        alone = self._calls.slots is not None
        places = (index if alone else index - place for place, (index, _) in enumerate(present))
        for _, run in itertools.groupby(zip(places, present, strict=True), lambda placed: placed[0]):
            members = [member for _, member in run]
            yield members[0][0], [row for _, row in members]

    def score_prompts(self, batch: Sequence[Row | None]) -> list[int]:
        """Read the prompts whose log-probabilities are wanted into the target's cache, and score their tokens.

        Args:
            batch: The rows by their index in the caches; None for a free one.

        Returns:
            The indices of rows whose logits were not finite.
        """
        failed = []
        for first_row, rows in self._runs([row if row is not None and row.lacks_scores else None for row in batch]):
            for index, (row, scored) in enumerate(zip(rows, self._scored(first_row, rows), strict=True), first_row):
                if any(math.isnan(logprob) for token in scored for _, logprob in token):
                    failed.append(index)
                row.score_prompt(scored)
                self.counts.read += row.length - 1
                if self._head is not None:  # the prompt is read again, for the head too
                    continue
                row.cached["target"] = row.length - 1
                if self._calls.alike:
                    store = self._prefixes["target"]
                    store.save(index, store.names(_shareable(row)))
        return failed

    def _scored(self, first_row: int, rows: Sequence[Row]) -> list[list[list[Scored]]]:
        """Return the log-probabilities of every row's tokens but the first."""
        texts, found = [row.tokens for row in rows], [list[list[Scored]]() for _ in rows]
        most = max(row.request.params.logprobs or 0 for row in rows)
        chunk = max(1, min(self._calls.tokens, self._calls.scored, SCORED_LOGITS // (len(rows) * self._vocabulary)))
        for logits_BCV in prefill_scored(self._target, texts, first_row, chunk, self._device, self._calls.slots):
            begin, size = len(found[0]) + 1, logits_BCV.shape[1]
            following = [text[begin : begin + size] for text in texts]
            follow_BC = torch.tensor([[*ids, *[0] * (size - len(ids))] for ids in following], device=self._device)
            more_BC = score(logits_BCV[..., : self._vocabulary], follow_BC, most).listed()
            for scored, more in zip(found, more_BC, strict=True):
                scored += more
        return [scored[: len(text) - 1] for scored, text in zip(found, texts, strict=True)]


def _lacks(row: Row, role: Role, left: int) -> bool:
    """Return whether a cache lacks more of a row's text than the last tokens, which the round feeds."""
    return row.cached[role] < row.length - left


def _shareable(row: Row) -> Sequence[int]:
    """Return what other texts may begin with too, of what a cache is to hold of a row: the last token is not read."""
    return row.prompt[: row.length - 1]


def groups(missing: Sequence[int], call_tokens: int) -> list[slice]:
    """Divide neighbouring rows into groups that are read together, for the least cost in all.

    A call feeds every row of a group as many tokens as the row that lacks most, so the cost of a group is that number
    times its rows, and ``call_tokens`` for the call.

    Args:
        missing: The tokens that each row lacks.
        call_tokens: What a call costs, in tokens.

    Returns:
        Slices that cover the rows in their order, of at most ``NEIGHBOURS`` rows each.
    """
    best, starts = [0], [0]  # the least cost of the first rows, and where the last group of that division starts
    for end in range(1, len(missing) + 1):
        most, found = 0, list[tuple[int, int]]()
        for start in range(end - 1, max(end - NEIGHBOURS, 0) - 1, -1):
            most = max(most, missing[start])
            found.append((best[start] + most * (end - start) + call_tokens, start))
        cost, start = min(found)
        best.append(cost)
        starts.append(start)
    parts, end = list[slice](), len(missing)
    while end:
        parts.append(slice(starts[end], end))
        end = starts[end]
    return parts[::-1]
