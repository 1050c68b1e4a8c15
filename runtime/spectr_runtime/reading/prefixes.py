"""Prefixes that texts share are read once: their keys and values are kept, and copied to the other rows.

The prompts of a job share system prompts and examples, and the choices of a request are rows of one prompt. A text is
cut into blocks of ``BLOCK`` tokens. Keys and values of a block depend on all tokens up to its end and on nothing else,
so a digest of these tokens names them.

Where an engine gives a token the same keys and values to the bit in every call, as ONNX Runtime's does on a CPU in
float32 and int8, a copied prefix changes no bit of a row. Elsewhere it changes their last bits, as other neighbours in
the batch do.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

import torch

from spectr_runtime.contract import KVCache
from spectr_runtime.errors import is_out_of_memory
from spectr_runtime.replay.transfer import Download, numbers

# Of a shared prefix, the part of its last block is read again: half a block in the mean, which a smaller block makes
# smaller. With this size it is a third of what a call on a CPU costs beside its tokens.
BLOCK = 16
# For each row of the batch, this part of a row's slots is kept. So a batch of eight keeps two whole texts: as many
# prefixes as rows that are admitted one after the other will ask for, and little beside the caches themselves.
KEPT_SHARE = 4
Block = tuple[torch.Tensor, ...]  # keys and values of a block, of each cache


def kept_tokens(rows: int, slots: int) -> int:
    """Return how many tokens are kept beside caches of so many rows and slots, if nothing else is asked for.

    A small batch keeps one whole text.
    """
    return max(rows, KEPT_SHARE) * slots // KEPT_SHARE


class PrefixStore:
    """Keys and values of blocks that an engine has read. If there is no room, the blocks go that were not used longest.

    A block takes memory of its own when it is kept. For which there is none, that is not kept.

    Values that are not finite are never handed on. A row that is not sound is so by its own reading, whoever shares its
    prompt, and what padding did to one row does not reach another.

    Args:
        cache: The cache of the engine; blocks are copied from it and to it.
        tokens: The most tokens that are kept. Their memory is as large as that of as many slots of the cache. None for
            as many as ``kept_tokens`` says of the cache as it is at the time.
        head: The cache of a head that reads the same texts; None where there is none. A slot of it holds a token and
            the one before it, so its slots of a block are those one before the block's.
    """

    def __init__(self, cache: KVCache, tokens: int | None, head: KVCache | None = None) -> None:
        self._cache, self._head = cache, head
        self._tokens = tokens
        self._blocks: OrderedDict[bytes, Block] = OrderedDict()  # by their names, the last one used at the end
        self._unsettled: list[tuple[list[bytes], Download]] = []  # kept blocks, and the sum of their values

    def stages(
        self, texts: Mapping[int, Sequence[int]], held: Callable[[int], int], call_tokens: int
    ) -> Iterator[dict[int, int]]:
        """Divide rows that are to be read into stages, so that what several rows share is read by one of them.

        The caller reads the rows of a stage, or a part of each, before it asks for the next one. Where the first of the
        rows that share something read a part of it only, the next one goes on behind that.

        Args:
            texts: By their index in the cache, the texts that the rows are to hold. Of an empty one, nothing is copied.
            held: Returns how many tokens from the start of its text a row of the cache holds now.
            call_tokens: What a call costs, in tokens; a row waits for another only if that saves more.

        Yields:
            The rows to be read now, and how many tokens from its start each of them got from the store or held before.
        """
        names = {row: self.names(text) for row, text in texts.items()}
        blocks = {row: self.load(row, names[row], held(row) // BLOCK) for row in texts}
        hopeful = list(texts)
        while blocks:
            waiting = followers({row: names[row][blocks[row] :] for row in hopeful}, call_tokens)
            ready = {row: number * BLOCK for row, number in blocks.items() if row not in waiting}
            yield ready
            for row in ready:
                self.save(row, names[row][: held(row) // BLOCK])
            before, blocks = blocks, {row: self.load(row, names[row], blocks[row]) for row in waiting}
            # What was read may not be kept, for lack of room or because it is not finite. Nobody waits for it twice.
            hopeful = [row for row in waiting if blocks[row] > before[row]]

    def names(self, text: Sequence[int]) -> list[bytes]:
        """Return the names of a text's whole blocks, as many as there is room for once it is read.

        A name is a digest of all tokens up to the block's end.
        """
        names, name = list[bytes](), b""
        for end in range(BLOCK, min(len(text), len(text) if self._tokens is None else self._tokens) + 1, BLOCK):
            name = hashlib.blake2b(name + array("q", text[end - BLOCK : end]).tobytes(), digest_size=32).digest()
            names.append(name)
        return names

    def load(self, row: int, names: Sequence[bytes], held: int) -> int:
        """Write those blocks of a text that are kept into a row of the cache.

        Args:
            row: Index of the row.
            names: Names of the text's blocks.
            held: How many of them the row holds already.

        Returns:
            How many blocks from the start of the text the row holds now.
        """
        self._settle()
        found = [self._blocks[name] for name in takewhile(self._blocks.__contains__, names[held:])]
        end = held + len(found)
        if found:
            for part, spans in enumerate(self._spans(row, held, end)):
                first = 0
                for span in spans:
                    torch.cat([block[part][first : first + len(span)] for block in found], 2, out=span)
                    first += len(span)
            self._touch(names[:end])
        return end

    def _spans(self, row: int, first: int, end: int) -> list[list[torch.Tensor]]:
        """Return the slots of some blocks of a row, of each cache."""
        spans = [self._cache.span(row, first * BLOCK, end * BLOCK)]
        if self._head is not None:
            spans.append(self._head.span(row, max(first * BLOCK - 1, 0), end * BLOCK - 1))
        return spans

    def save(self, row: int, names: Sequence[bytes]) -> None:
        """Keep the blocks of a text, by their names, which a row of the cache holds."""
        self._touch(names)
        fresh = [index for index, name in enumerate(names) if name not in self._blocks]
        self.trim(len(fresh))
        try:
            for index in fresh:
                self._blocks[names[index]] = tuple(map(torch.cat, self._spans(row, index, index + 1)))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._touch(names)
        if fresh:
            read = [span for spans in self._spans(row, fresh[0], fresh[-1] + 1) for span in spans]
            total = torch.stack([span.sum(dtype=torch.float64) for span in read]).sum()
            words = total.view(torch.int64)[None]
            self._unsettled.append(([names[index] for index in fresh], Download(words, {"total": ()})))

    def trim(self, more: int = 0) -> None:
        """Drop the blocks for which there is no room, or for which there would be none if so many more were kept."""
        room = kept_tokens(self._cache.rows, self._cache.slots) if self._tokens is None else self._tokens
        while self._blocks and len(self._blocks) + more > room // BLOCK:
            self._blocks.popitem(last=False)

    def _settle(self) -> None:
        """Drop blocks that are not finite, of those that were kept since the last time.

        A sum is finite only if all of its terms are. A GPU has computed it by now, so that the host need not wait.
        """
        for names, total in self._unsettled:
            if not numbers(total.tensors()["total"]).isfinite():
                for name in names:
                    self._blocks.pop(name, None)
        self._unsettled.clear()

    def _touch(self, names: Sequence[bytes]) -> None:
        """Take note that blocks of a text were used, the first one last: no block goes before those that follow it."""
        for name in reversed(names):
            if name in self._blocks:
                self._blocks.move_to_end(name)


def followers(lacking: Mapping[int, Sequence[bytes]], call_tokens: int) -> list[int]:
    """Return the rows that wait until another row has read what they share with it.

    Args:
        lacking: For each row, the names of the blocks that are not kept.
        call_tokens: What a call costs, in tokens. Rows wait if they save more than the call that reads them later.
    """
    groups: dict[bytes, list[int]] = {}
    for row, names in lacking.items():
        if names:
            groups.setdefault(names[0], []).append(row)
    waiting = list[int]()
    for first, *others in groups.values():
        shared = sum(_common(lacking[first], lacking[other]) for other in others)
        if shared * BLOCK > call_tokens:
            waiting += others
    return waiting


def _common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """Return how many blocks two texts share; blocks of one name stand at the same place."""
    return len(set(one) & set(other))
