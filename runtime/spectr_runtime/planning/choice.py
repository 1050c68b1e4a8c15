"""What the rows draft in the next round: what is looked up for them, and the plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from spectr_runtime.drafting.corpus import MOST_TOKENS, Corpus, read_corpus
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.drafting.texts import Texts
from spectr_runtime.planning.planner import NO_LAG, Lag, Planner
from spectr_runtime.rows.drafting import DRAFT, TEXTS, Drafted
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.offers import Offers, drafted_of, paths_of
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice
from spectr_runtime.speculation.timing import PlainTime, Timing
from spectr_runtime.speculation.turn import Turn

# After so many rounds whose times tell nothing, as where every one has a shape of its own, they count all the same.
PATIENCE = 8


class Choice(NamedTuple):
    """The plan of a round, and what is given to its rows."""

    plan: Plan
    offers: Offers


def open_corpus(path: Path | None, tokenizer: Tokenizer) -> Corpus:
    """Return the corpus of a decoder, with the texts of a file if there is one.

    Raises:
        UsageError: The file cannot be read, or has another form than ``read_corpus`` says.
    """
    corpus = Corpus(MOST_TOKENS)
    for tokens in () if path is None else read_corpus(path, tokenizer.tokens):
        corpus.add(tokens)
    return corpus


def open_texts(plan: PlanChoice, menu: Sequence[Plan], corpus: Corpus) -> Texts:
    """Return what looks up drafts for the plans of a run.

    Args:
        plan: The run's plan; with ``auto`` every source is looked in.
        menu: The plans that rounds may take.
        corpus: The corpus.
    """
    source = TEXTS if plan == AUTO else plan.source
    looking = [one for one in menu if one.source != DRAFT] or [one for one in menu if one.drafts]
    paths, length = max((one.drafts for one in looking), default=1), max((one.length for one in looking), default=1)
    return Texts(source, corpus, paths, length)


def lag_of(rows: Sequence[Row]) -> Lag:
    """Return what the draft model lacks of the texts of some rows, at least one."""
    lacking = (max(row.length - 2 - row.cached["draft"], 0) for row in rows)
    return Lag(sum(lacking), sum(row.limit - row.length for row in rows) / len(rows))


class Chooser:
    """Looks up drafts, chooses plans, and lets both learn from what came of it.

    Attributes:
        planner: Chooses the plans.
        plain: The rounds so far beside those of plain decoding.

    Args:
        planner: Chooses the plans.
        texts: Looks up drafts.
        timing: Takes the seconds of looking up.
        headed: Whether the draft is a head, which reads what the target reads and never has to catch up.
    """

    def __init__(self, planner: Planner, texts: Texts, timing: Timing, *, headed: bool = False) -> None:
        self._headed = headed
        self.planner = planner
        self._texts = texts
        self._timing = timing
        self._accepted: list[int] = []
        self._written: list[int] = []
        self._mute = 0  # rounds since one whose time told something
        self.plain = PlainTime()

    def choose(self, batch: Sequence[Row | None], rows: int, *, current: bool = True) -> Choice | None:
        """Return what the next round drafts.

        Args:
            batch: The rows by their index in the batch; None for a free one.
            rows: Number of rows that the round will have.
            current: Whether the texts of the rows are whole, and not short of what a round writes that is not read yet.

        Returns:
            The choice; None if something was looked up for texts that are not whole, which says nothing of their ends.
        """
        with self._timing.measure("lookup"):
            proposals = self._texts.propose(batch)
            if not current and any(one is not None and one.paths for one in proposals):
                return None
            lag = NO_LAG if self._headed else lag_of([row for row in batch if row is not None])
            plan = self.planner.choose(rows, proposals, lag)
            return Choice(plan, [self._offer(plan, proposal) for proposal in proposals])

    def put_off(self) -> None:
        """Take note that what was chosen last is not taken now."""
        self.planner.put_off()

    def _offer(self, plan: Plan, proposal: Proposal | None) -> Proposal | None:
        if proposal is None or not proposal.paths or not plan.feeds_draft:
            return proposal
        assert plan.races  # other rules test drafts by the draft model's laws, which these were not drawn from
        return proposal if self.planner.prefers(plan, proposal) else None

    def drafted(self, turn: Turn, index: int, row: Row, accepted: int) -> Drafted:
        """Return what a row drafted in a turn, and take note of how much of it was accepted.

        Args:
            turn: The turn.
            index: The row's index in the batch.
            row: The row.
            accepted: How many drafts it accepted.
        """
        offer = turn.offers[index]
        drafted = drafted_of(turn.plan, row, offer, accepted)._replace(lacking=turn.lacking[index])
        self._written.append(accepted + 1)
        if drafted.source == DRAFT:
            self._accepted.append(accepted)
        elif drafted.source is not None and offer is not None:
            self._texts.observe(row, offer, drafted.proposed, accepted)
        if row.request.watch is None:
            return drafted
        paths = paths_of(turn.plan, drafted, offer, turn.wrote.nodes_BN[index])
        return drafted._replace(plan=str(turn.plan), paths=paths)

    def observe(self, turn: Turn) -> None:
        """Take note of a turn, after ``drafted`` was called for its rows."""
        rows = len(turn.wrote.accepted)
        plain = self.planner.plain_seconds(rows)
        if plain is not None and self._written:
            self.plain.add(turn.spent.total, plain * sum(self._written) / len(self._written))
        self._mute = 0 if turn.telling else self._mute + 1
        telling = turn.telling or self._mute > PATIENCE
        self.planner.observe(turn.plan, rows, self._accepted, turn.spent if telling else None)
        self._accepted, self._written = [], []

    def finished(self, row: Row) -> None:
        """Take note of a row that has ended."""
        self._texts.add(row)
