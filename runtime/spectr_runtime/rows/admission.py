"""From a request to a row of the batch, or to the reason why the request cannot be served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from spectr_runtime.bundle import Manifest
from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Failure, Outcome, Request
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.tokenizer import SHORTEN, TOO_LONG, Tokenizer
from spectr_runtime.rows.tokens import check_tokens
from spectr_select import seed_of, seed_of_prompt

# How many rows are looked at for each that there is room for, if there is room for several.
AHEAD = 4


class Waiting:
    """The rows that wait for room in the batch: those that lost theirs first, then those of requests.

    Rows that get room together are read together, and the shorter ones are padded. So a few more are looked at than
    there is room for: the first one gets room, and those whose lengths are nearest to its own.

    Args:
        made: What ``row_or_outcome`` makes of the requests.
        stopped: Says whether only those that lost their room are to get it again.
    """

    def __init__(self, made: Iterator[Row | Outcome], stopped: Callable[[], bool] = lambda: False) -> None:
        self._made = made
        self._stopped = stopped
        self._evicted: deque[Row] = deque()
        self._rows: list[Row] = []
        self._exhausted = False

    @property
    def ended(self) -> bool:
        """Whether no more rows come but those that lose their room, as far as is known."""
        return self._exhausted and not self._rows

    def evict(self, row: Row) -> None:
        """Take back a row that lost its room; it goes on from what it wrote when it is taken again."""
        row.evict()
        self._evicted.append(row)

    def take(self, room: int) -> Iterator[Row | Outcome]:
        """Yield as many rows as there is room for, and the outcomes of requests that end at once.

        These are failures of requests that cannot be served, and completions of requests that want nothing written.
        """
        while room and self._evicted:
            yield self._evicted.popleft()
            room -= 1
        while len(self._rows) < (AHEAD * room if room > 1 else room) and not self._exhausted:
            made = next(self._made, None)
            if made is None:
                self._exhausted = True
            elif isinstance(made, Row):
                self._rows.append(made)
            else:
                yield made
        if self._stopped():
            self._rows.clear()
        yield from self._nearest(room)

    def _nearest(self, room: int) -> list[Row]:
        """Take out the first row and those nearest to it in length."""
        by_distance = sorted(
            range(len(self._rows)), key=lambda place: (abs(self._rows[place].length - self._rows[0].length), place)
        )
        taken = set(by_distance[:room])
        rows = [self._rows[place] for place in sorted(taken)]
        self._rows = [row for place, row in enumerate(self._rows) if place not in taken]
        return rows


def row_or_outcome(request: Request, manifest: Manifest, tokenizer: Tokenizer, run_seed: int) -> Row | Outcome:
    """Return the row of a request, or the outcome of one that ends at once; the arguments are those of ``make_row``."""
    try:
        row = make_row(request, manifest, tokenizer, run_seed)
    except RequestError as error:
        return Failure(request.id, error, request.choice)
    return row.finish_unwritten() or row


def outcome_of(one: Row | Outcome) -> Outcome:
    """Return the completion of a row that has ended, or the outcome that it is already."""
    return one.completion() if isinstance(one, Row) else one


def make_row(request: Request, manifest: Manifest, tokenizer: Tokenizer, run_seed: int) -> Row:
    """Tokenise a request, and fix the length and the noise of its row.

    Args:
        request: The request.
        manifest: The bundle's manifest.
        tokenizer: The bundle's tokenizer.
        run_seed: With the request's id, the seed of requests that have none of their own.

    Raises:
        RequestError: The prompt is too long or cannot be tokenised, or a token that the request names does not exist.
    """
    params, vocabulary = request.params, manifest.vocabulary
    check_tokens("logit_bias", [token for token, _ in params.logit_bias], vocabulary.size)
    check_tokens("stop_token_ids", params.stop_token_ids, vocabulary.size)
    least = min(params.max_tokens, 1)
    prompt = tokenizer.encode(request.prompt, manifest.limits.capacity - least)
    _check_length(len(prompt), least, manifest.limits.capacity)
    model_ends = () if params.ignore_eos else vocabulary.eos_token_ids
    return Row(
        request=request,
        prompt=prompt,
        seed=_seed(request, prompt, run_seed),
        end_tokens=frozenset((*model_ends, *params.stop_token_ids, *tokenizer.special_ids(params.stop))),
        limit=min(len(prompt) + params.max_tokens, manifest.limits.capacity),
        tokenizer=tokenizer,
    )


def _seed(request: Request, prompt: tuple[int, ...], run_seed: int) -> int:
    if request.params.seed is None:
        return seed_of(run_seed, request.id, request.choice)
    return seed_of_prompt(request.params.seed, prompt, request.sample)


def _check_length(tokens: int, least: int, capacity: int) -> None:
    if tokens + least > capacity:
        room = ", so that one can be written" if least else ""
        raise RequestError(
            f"The prompt has {tokens} tokens; this bundle takes at most {capacity - least}{room}.",
            param="prompt",
            code=TOO_LONG,
            hint=SHORTEN,
        )
