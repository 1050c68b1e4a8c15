"""Drafts that are looked up: in the text of the row itself, and in a corpus."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from spectr_runtime.drafting.corpus import Corpus
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.drafting.rates import expected
from spectr_runtime.drafting.suffixes import LONGEST, Match, SuffixIndex
from spectr_runtime.rows.drafting import CORPUS, DRAFT, LOOKUP, TEXTS, SourceName, Trials
from spectr_runtime.rows.row import Row

# In a row's own text two tokens that occurred before are worth a try; in a corpus, they occur somewhere in any case.
ORDER = 2
NAMES: dict[SourceName, tuple[SourceName, ...]] = {
    DRAFT: (),
    LOOKUP: (LOOKUP,),
    CORPUS: (CORPUS,),
    TEXTS: (LOOKUP, CORPUS),
}


class Texts:
    """Looks up drafts for the rows of a batch, and learns how often they are accepted.

    Args:
        source: Where to look, for rows whose requests do not say.
        corpus: The corpus, to which finished rows are added.
        paths: The most paths of a row.
        length: The most tokens of a path.
    """

    def __init__(self, source: SourceName, corpus: Corpus, paths: int, length: int) -> None:
        self._names = NAMES[source]
        self._keeps = CORPUS in self._names  # or once a request has asked for the corpus
        self._corpus = corpus
        self._paths, self._length = paths, length
        self._indices: dict[int, tuple[Row, SuffixIndex]] = {}
        self._trials: dict[tuple[SourceName, int], Trials] = {}

    def propose(self, batch: Sequence[Row | None]) -> list[Proposal | None]:
        """Return what was found for each row; None where nothing was.

        Args:
            batch: The rows by their index in the batch; None for a free one.
        """
        present = {id(row) for row in batch}
        for gone in self._indices.keys() - present:
            del self._indices[gone]
        return [None if row is None else self._propose(row) for row in batch]

    def _propose(self, row: Row) -> Proposal | None:
        choice = row.request.draft
        if choice is None:
            return self._found(row, self._names, self._length)
        if choice.source is None or choice.source == DRAFT:
            return Proposal(choice.source, forced=choice.source is not None)
        names = NAMES[choice.source]
        self._keeps = self._keeps or CORPUS in names
        found = self._found(row, names, choice.length or self._length)
        return Proposal(None) if found is None else found._replace(forced=True)

    def _found(self, row: Row, names: Collection[SourceName], length: int) -> Proposal | None:
        """Look where the names say; the longer match counts, and the row's own where both are as long."""
        suffix, best = row.tokens[-LONGEST:], None
        for name in names:
            where = self._index(row) if name == LOOKUP else self._corpus
            match = where.find(suffix, self._paths, length)
            if match is not None and (best is None or match.matched > best[1].matched):
                best = name, match
        return None if best is None else self._made(row, *best)

    def _made(self, row: Row, name: SourceName, match: Match) -> Proposal:
        own = row.trials.get(name) or Trials()
        shares = own.shares(*self._trials_of(name, match.matched).shares())
        narrow = expected(match.agreeing, shares, 1)
        wide = narrow if len(match.paths) == 1 else expected(match.agreeing, shares, len(match.paths))
        return Proposal(name, match.paths, match.matched, narrow, wide)

    def _index(self, row: Row) -> SuffixIndex:
        """Return the index of a row's text, with all that was written since."""
        _, index = self._indices.setdefault(id(row), (row, SuffixIndex(ORDER)))
        index.extend(row.tokens[len(index) :])
        return index

    def _trials_of(self, name: SourceName, matched: int) -> Trials:
        """Return the trials of drafts behind matches of about a length."""
        return self._trials.setdefault((name, matched.bit_length()), Trials())

    def observe(self, row: Row, proposal: Proposal, proposed: int, accepted: int) -> None:
        """Take note of how many of the proposed tokens of a row were accepted."""
        assert proposal.source is not None
        self._trials_of(proposal.source, proposal.matched).add(proposed, accepted)
        row.trials.setdefault(proposal.source, Trials()).add(proposed, accepted)

    def add(self, row: Row) -> None:
        """Add a finished row to the corpus: what it wrote, with the end of its prompt before it.

        Where nobody looks into the corpus nothing is kept.
        """
        if self._keeps:
            self._corpus.add(row.tokens[max(len(row.prompt) - LONGEST, 0) :])
