"""One row of the batch as the host sees it: the text so far, and when the row ends."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from spectr_runtime.bundle import ROLES, Role
from spectr_runtime.errors import RowError
from spectr_runtime.rows.drafting import NOTHING, Drafted, SourceName, SourceStats, Trials
from spectr_runtime.rows.request import (
    Completion,
    Failure,
    FinishReason,
    Request,
    SpeculationStats,
    TokenLogprob,
    Usage,
)
from spectr_runtime.rows.rounds import RowRound
from spectr_runtime.rows.text.stop_text import StopText
from spectr_runtime.rows.text.tokenizer import Tokenizer

Scored = tuple[int, float]  # a token and its log-probability


@dataclasses.dataclass(slots=True)
class Row:
    """A request while it is being decoded.

    Attributes:
        request: The request.
        prompt: Token ids of the prompt.
        seed: Seed of the row's noise.
        end_tokens: Tokens that end the completion.
        limit: The largest number of tokens of prompt and completion together.
        tokenizer: The bundle's tokenizer.
        cached: How many tokens from the start of the text each model's cache holds.
        tokens: The text so far: the prompt and what was written.
        trials: How often drafts of each source passed, for sources that learn from it.
    """

    request: Request
    prompt: tuple[int, ...]
    seed: int
    end_tokens: frozenset[int]
    limit: int
    tokenizer: Tokenizer
    cached: dict[Role, int] = dataclasses.field(init=False)
    tokens: list[int] = dataclasses.field(init=False)
    trials: dict[SourceName, Trials] = dataclasses.field(init=False, default_factory=dict)
    _stop_text: StopText | None = dataclasses.field(init=False)
    _stopped_text: str | None = dataclasses.field(init=False, default=None)
    _reason: FinishReason | None = dataclasses.field(init=False, default=None)
    _rounds: int = dataclasses.field(init=False, default=0)
    _accepted_at_depth: list[int] = dataclasses.field(init=False, default_factory=list)
    _sources: dict[str, SourceStats] = dataclasses.field(init=False, default_factory=dict)
    _logprobs: list[TokenLogprob] = dataclasses.field(init=False, default_factory=list)
    _prompt_scored: bool = dataclasses.field(init=False, default=False)

    def __post_init__(self) -> None:
        self.tokens = list(self.prompt)
        stops = self.request.params.stop
        self._stop_text = StopText(self.tokenizer.stream(), self.prompt, stops) if stops else None
        self.evict()

    @property
    def length(self) -> int:
        """Number of tokens of prompt and completion."""
        return len(self.tokens)

    @property
    def written(self) -> int:
        """Number of tokens of the completion."""
        return len(self.tokens) - len(self.prompt)

    @property
    def lacks_scores(self) -> bool:
        """Whether the log-probabilities of the prompt are wanted and not there yet."""
        return self.request.echo and self.request.params.logprobs is not None and not self._prompt_scored

    @property
    def written_counts(self) -> Mapping[int, int]:
        """How often each token occurs in the completion."""
        return Counter(self.tokens[len(self.prompt) :])

    @property
    def last(self) -> tuple[int, int]:
        """The last two tokens; a text of one token repeats it."""
        return self.tokens[-min(len(self.tokens), 2)], self.tokens[-1]

    def evict(self) -> None:
        """Mark the row as one of which no cache holds anything; before it writes, its prompt is scored anew."""
        self.cached = dict.fromkeys(ROLES, 0)
        self._prompt_scored = self._prompt_scored and self.written > 0

    def score_prompt(self, scored: Sequence[Sequence[Scored]]) -> None:
        """Take the log-probabilities of the prompt.

        Args:
            scored: As for ``extend``, one entry for each token of the prompt but the first.
        """
        first = TokenLogprob(self.prompt[0], *self.tokenizer.piece(self.prompt[0]), None)
        self._logprobs = [first, *(self._logprob(*one) for one in scored)]
        self._prompt_scored = True

    def finish_unwritten(self) -> Completion | None:
        """Return the completion if the row is to write nothing and lacks nothing, else None."""
        if self.limit > len(self.prompt) or self.lacks_scores:
            return None
        self._reason = "length"
        return self.completion()

    def extend(
        self, emitted: Sequence[int], drafted: Drafted = NOTHING, scored: Sequence[Sequence[Scored]] = ()
    ) -> bool:
        """Append the tokens of a round one by one, until one of them ends the row.

        Tokens after the one that ends the row are dropped. If a token both stops the row and reaches its limit, the
        reason is the stop.

        Args:
            emitted: The accepted drafts, then one more token.
            drafted: What was drafted for the row.
            scored: For each token, the token and the most probable ones, with their log-probabilities; empty if the row
                does not want them.

        Returns:
            Whether the row ended.
        """
        self._rounds += 1
        self._count(drafted)
        begun = self.written
        ended = self._append(emitted, scored)
        if self.request.watch is not None:
            self.request.watch(self._round(begun, emitted, drafted))
        if ended:
            return True
        # The round fed everything but the last token, which no model has seen. The draft was not fed the leaves either.
        self.cached["target"] = len(self.tokens) - 1
        if drafted.lacking is not None:
            self.cached["draft"] = max(len(self.tokens) - drafted.lacking, 0)
        return False

    def _append(self, emitted: Sequence[int], scored: Sequence[Sequence[Scored]]) -> bool:
        """Append tokens until one of them ends the row, and return whether one did."""
        for index, token in enumerate(emitted):
            self.tokens.append(token)
            if scored:
                self._logprobs.append(self._logprob(*scored[index]))
            self._reason = self._end(token)
            if self._reason:
                return True
        return False

    def _round(self, begun: int, emitted: Sequence[int], drafted: Drafted) -> RowRound:
        """Return what the last round did, which began behind so many written tokens."""
        *accepted, token = emitted
        return RowRound(
            id=self.request.id,
            choice=self.request.choice,
            number=self._rounds,
            position=begun,
            plan=drafted.plan,
            source=drafted.source,
            paths=drafted.paths,
            accepted=tuple(accepted),
            token=token,
            dropped=begun + len(emitted) - self.written,
        )

    def _count(self, drafted: Drafted) -> None:
        if drafted.source is None:
            return
        self._sources.setdefault(drafted.source, SourceStats()).add(drafted)
        self._accepted_at_depth += [0] * (drafted.proposed - len(self._accepted_at_depth))
        for depth in range(drafted.accepted):
            self._accepted_at_depth[depth] += 1

    def _end(self, token: int) -> FinishReason | None:
        ends, full = token in self.end_tokens, len(self.tokens) >= self.limit
        if self._stop_text is not None:
            held = self.written <= self.request.params.min_tokens
            self._stopped_text = self._stop_text.push(token, held=held, last=ends or full)
        if ends or self._stopped_text is not None:
            return "stop"
        return "length" if full else None

    def _logprob(self, own: Scored, *top: Scored) -> TokenLogprob:
        def scored(token: int, logprob: float, most: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
            return TokenLogprob(token, *self.tokenizer.piece(token), logprob, most)

        return scored(*own, tuple(scored(*one) for one in top[: self.request.params.logprobs]))

    def completion(self) -> Completion:
        """Return the completion of a row that has ended."""
        assert self._reason is not None
        written = tuple(self.tokens[len(self.prompt) :])
        text = self.tokenizer.completion(self.prompt, written) if self._stopped_text is None else self._stopped_text
        if self.request.echo:
            text = self._prompt_text(written) + text
        return Completion(
            id=self.request.id,
            text=text,
            token_ids=written,
            finish_reason=self._reason,
            usage=Usage(len(self.prompt), len(written)),
            speculation=SpeculationStats(self._rounds, tuple(self._accepted_at_depth), self._sources),
            choice=self.request.choice,
            logprobs=tuple(self._logprobs) if self.request.params.logprobs is not None else None,
        )

    def not_finite(self) -> Failure:
        """Return the failure of a row for which a model returned logits that are not finite."""
        name, written = self.request.id, self.written
        message = f"A model returned logits that are not finite for row {name!r} after {written} written tokens."
        error = RowError(message, code="non_finite_logits", hint="Check the bundle with `spectr-export check`.")
        return Failure(name, error, self.request.choice)

    def _prompt_text(self, written: Sequence[int]) -> str:
        """Return the prompt as it was given, or what token ids have of the text before the completion's."""
        if isinstance(self.request.prompt, str):
            return self.request.prompt
        whole = self.tokenizer.decode([*self.prompt, *written])
        return whole.removesuffix(self.tokenizer.completion(self.prompt, written))
