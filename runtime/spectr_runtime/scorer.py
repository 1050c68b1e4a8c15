"""The scorer: compares tokens that were written with the laws that they should have been drawn from.

Prompt and completion are fed as plain text, one chain after the prompt. Neither drafting nor a selection rule nor a
branching tree takes part in that, so the scorer can judge what these wrote.
"""

# B rows, N fed tokens from the last one of the prompt on, M of them in one pass, V vocabulary.
from __future__ import annotations

import datetime
import functools
from collections.abc import Iterable, Iterator, Sequence

import torch

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import triangle
from spectr_runtime.drafting.batch import Rows, tree_call
from spectr_runtime.errors import RequestError
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.laws.written import adjustment_of
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.reading.prefill import prefill
from spectr_runtime.rows.admission import make_row
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.score import Score, TokenScore, Written
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.rows.tokens import outside
from spectr_runtime.speculation.pair import Pair, logits_per_call
from spectr_runtime.speculation.plan import Plan, PlanChoice

TOLERANCES = {"float32": 1e-3}
HALF_TOLERANCE = 0.25  # the tolerance of models in half precision
DRAFTING = Plan("single", 1, 1)  # any plan with drafts, for which a pair opens both models
LAW_ENTRIES = 2**22  # the most probabilities that one pass computes: 32 MB in float64, and a few copies of them


class Scorer:
    """Scores completions with a bundle's pair of models, or with its target alone.

    Args:
        bundle: The models and their tokenizer.
        backend: Which engines run the models.
        device: The device that the models run on, as torch names it.
        batch_size: Number of completions to score together.
        plan: The plan that the completions were decoded with. It says how many tokens a compiled engine can score in
            one pass: those of the plan's largest tree.
        date: The day on which chat templates are told that they run; None for today.

    Attributes:
        tolerance: The largest difference that two passes of the target may have in a logit.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend,
        device: str,
        batch_size: int,
        plan: PlanChoice,
        date: datetime.date | None = None,
    ) -> None:
        self.tolerance = TOLERANCES.get(bundle.manifest.models["target"].dtype, HALF_TOLERANCE)
        self._batch_size = batch_size
        self._device = torch.device(device)
        self._manifest = bundle.manifest
        self._vocabulary = bundle.manifest.vocabulary.size
        self._limits = bundle.manifest.limits
        plans = menu_of(plan, bundle.manifest)
        self._most = logits_per_call(backend, plans, self._limits)
        self._tokenizer = Tokenizer(bundle.tokenizer, self._vocabulary, date)
        # A head has no law of its own of a text that was not drafted with it.
        headed = bundle.manifest.has_draft and bundle.manifest.models["draft"].head is not None
        undrafted = [plan for plan in plans if not plan.feeds_draft] or [Plan.plain()]
        opened = undrafted if headed else [*plans, DRAFTING] if bundle.manifest.has_draft else plans
        self._open = functools.partial(Pair, bundle, opened, backend=backend, device=device, rows=batch_size)
        self._pair = self._open(longest=1)

    @torch.inference_mode()
    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        """Score completions, in their order, but each noise once.

        Completions of equal prompts with equal seeds were drawn with the same noise, so only the first of them tells
        anything about the law. The others are left out.

        Raises:
            RequestError: A completion cannot have been written with this bundle, or a model's logits are not finite.
        """
        batch: list[tuple[Written, Row]] = []
        seen: set[int] = set()
        for written in completions:
            one = (written, self._row(written))
            if one[1].seed in seen:
                continue
            seen.add(one[1].seed)
            if batch and not self._fits([*batch, one]):
                yield from self._score(batch)
                batch = []
            batch.append(one)
        if batch:
            yield from self._score(batch)

    def _row(self, written: Written) -> Row:
        """Return the row of a completion's request, once the completion is known to fit after its prompt."""
        row = make_row(written.request, self._manifest, self._tokenizer, run_seed=0)
        allowed = row.limit - row.length
        unknown = outside(written.token_ids, self._vocabulary)
        if unknown or len(written.token_ids) > allowed:
            what = f"token id {unknown[0]}" if unknown else f"{len(written.token_ids)} tokens"
            known = f"{allowed} tokens with ids from 0 to {self._vocabulary - 1}"
            raise RequestError(f"Row {written.request.id!r} has {what}; allowed are {known}.")
        return row

    def _fits(self, batch: Sequence[tuple[Written, Row]]) -> bool:
        """Return whether rows fit into one batch: the longest completion must fit after the longest prompt."""
        return len(batch) <= self._batch_size and _longest(batch) <= self._limits.capacity

    def _hold(self, longest: int) -> None:
        """Open larger compiled engines if those that are open are too small for texts of so many tokens."""
        if longest > self._pair.longest:
            del self._pair  # its memory is needed
            self._pair = self._open(longest=longest)

    def _score(self, batch: Sequence[tuple[Written, Row]]) -> list[Score]:
        """Score one batch, pass by pass: as many tokens at a time as the engines and the memory for laws allow."""
        self._hold(_longest(batch))
        rows = self._prefilled([row for _, row in batch])
        longest = max(len(written.token_ids) for written, _ in batch)
        padded = [[row.last[1], *written.token_ids] for written, row in batch]
        tokens_BN = torch.tensor([[*one, *[0] * (longest + 1 - len(one))] for one in padded], device=self._device)
        step = max(1, min(self._most, LAW_ENTRIES // (len(batch) * self._vocabulary)))
        scores: list[list[TokenScore]] = [[] for _ in batch]
        for first in range(0, longest, step):
            passed, sound_B = self._pass(rows, tokens_BN[:, : first + step + 1], first)
            for index in (~sound_B).nonzero():
                raise RequestError(f"The logits of row {batch[int(index)][0].request.id!r} are not finite.")
            for found, more in zip(scores, passed, strict=True):
                found += more
        return [
            Score(written, tuple(found[: len(written.token_ids)]))
            for (written, _), found in zip(batch, scores, strict=True)
        ]

    def _prefilled(self, batch: Sequence[Row]) -> Rows:
        """Read the prompts into the caches, and return the batch as tensors."""
        prompts, cached = [row.prompt for row in batch], [0] * len(batch)
        for engine in filter(None, (self._pair.draft, self._pair.target)):
            prefill(engine, prompts, cached, 0, self._limits.tokens_per_call, self._device)
        return Rows(
            length_B=torch.tensor([row.length for row in batch], device=self._device),
            last_B2=torch.tensor([row.last for row in batch], device=self._device),
            seed_B=torch.zeros(len(batch), dtype=torch.int64, device=self._device),
            sampling=Sampling.of([row.request.params for row in batch], self._vocabulary, self._device),
            adjustment=adjustment_of(batch, self._vocabulary, self._device),
            logprobs=None,
            longest=max(row.length for row in batch),
        )

    def _pass(self, rows: Rows, tokens_BN: torch.Tensor, first: int) -> tuple[list[list[TokenScore]], torch.Tensor]:
        """Feed all tokens from index ``first`` on but the last one, and score the token after each.

        Returns:
            The scores, row by row, and which rows' logits were finite [B].
        """
        fed_BN, written_BM1 = tokens_BN[:, :-1], tokens_BN[:, first + 1 :, None]
        depths = tuple(range(first, fed_BN.shape[1]))
        sees_MN = triangle(fed_BN.shape[1], self._device)[first:]

        def logits(engine: Engine) -> torch.Tensor:
            return engine.forward(tree_call(engine, rows, fed_BN[:, first:].contiguous(), depths, first, sees_MN))

        draft = None if self._pair.draft is None else rows.laws(logits(self._pair.draft), fed_BN, sees_MN)
        logits_BMV = logits(self._pair.target)
        target_BMV, sound_B = rows.laws(logits_BMV, fed_BN, sees_MN)
        possible_BM = target_BMV.gather(2, written_BM1)[..., 0] > 0
        # A token at the border of a truncation may have been allowed when the logits differed in their last bits. Where
        # the law forbids a token, the law with that token's logit raised by the tolerance decides.
        if not possible_BM.all():
            size = self._vocabulary
            logits_BMV = logits_BMV[..., :size].scatter_add(
                2, written_BM1, torch.full_like(logits_BMV[..., :1], self.tolerance).expand_as(written_BM1)
            )
            raised_BMV, _ = rows.laws(logits_BMV, fed_BN, sees_MN)
            possible_BM |= raised_BMV.gather(2, written_BM1)[..., 0] > 0
        if draft is None:
            return _scores(target_BMV, None, written_BM1, possible_BM), sound_B
        return _scores(target_BMV, draft[0], written_BM1, possible_BM), sound_B & draft[1]


def _longest(batch: Sequence[tuple[Written, Row]]) -> int:
    """Return how many tokens each row of a batch may have: all completions are padded to the longest one."""
    return max(row.length for _, row in batch) + max(len(written.token_ids) for written, _ in batch)


def _scores(
    target_BMV: torch.Tensor, draft_BMV: torch.Tensor | None, written_BM1: torch.Tensor, possible_BM: torch.Tensor
) -> list[list[TokenScore]]:
    """Return the scores of the written tokens, row by row, from the two laws of each; without a draft, from one."""
    target_BMV = target_BMV.double()
    target_BMV = target_BMV / target_BMV.sum(-1, keepdim=True)
    ratio_BM: list[list[float | None]] = [[None] * row.shape[0] for row in written_BM1]
    if draft_BMV is not None:
        ratio_BMV = torch.where(target_BMV > 0, draft_BMV.double() / target_BMV, torch.inf)
        ratio_BM = _below(target_BMV, ratio_BMV, written_BM1).tolist()
    columns = [
        target_BMV.gather(2, written_BM1)[..., 0].tolist(),
        ratio_BM,
        _below(target_BMV, target_BMV, written_BM1).tolist(),
        possible_BM.tolist(),
    ]
    return [[TokenScore(*token) for token in zip(*row, strict=True)] for row in zip(*columns, strict=True)]


def _below(target_BMV: torch.Tensor, order_BMV: torch.Tensor, written_BM1: torch.Tensor) -> torch.Tensor:
    """Return the probability of all tokens before the written ones in an order, ties by token id; [B, M]."""
    mark_BM1 = order_BMV.gather(2, written_BM1)
    lower_V = torch.arange(target_BMV.shape[2], device=target_BMV.device)
    before_BMV = (order_BMV < mark_BM1) | ((order_BMV == mark_BM1) & (lower_V < written_BM1))
    return (target_BMV * before_BMV).sum(-1)
