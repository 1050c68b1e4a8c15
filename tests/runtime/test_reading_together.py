"""Which rows are read in one call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from support import TableEngine

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call
from spectr_runtime.reading.reader import NEIGHBOURS, groups
from spectr_runtime.rows.row import Row


def cost(missing: list[int], parts: list[slice], call_tokens: int) -> int:
    return sum(max(missing[part]) * len(missing[part]) + call_tokens for part in parts)


@pytest.mark.parametrize(
    ("missing", "parts"),
    [
        ([], []),
        ([5], [(0, 1)]),
        ([10, 12, 11, 9], [(0, 4)]),
        ([10, 11, 500], [(0, 2), (2, 3)]),
        ([10, 500, 11], [(0, 1), (1, 2), (2, 3)]),
        ([100, 100, 1], [(0, 2), (2, 3)]),
    ],
)
def test_rows_that_lack_about_as_much_are_read_together(missing: list[int], parts: list[tuple[int, int]]) -> None:
    assert groups(missing, 24) == [slice(*part) for part in parts]


@pytest.mark.parametrize("missing", [[3, 50, 7, 7, 90, 91, 2, 40], [1] * 8, [9, 8, 7, 6, 5, 4, 3, 200]], ids=str)
def test_no_other_division_costs_less(missing: list[int]) -> None:
    ends = range(1, len(missing))
    divisions = [
        [slice(*part) for part in itertools.pairwise((0, *cuts, len(missing)))]
        for count in range(len(missing))
        for cuts in itertools.combinations(ends, count)
    ]
    assert cost(missing, groups(missing, 24), 24) == min(cost(missing, parts, 24) for parts in divisions)


def test_a_group_has_a_limit_and_all_rows_are_covered() -> None:
    parts = groups([4] * 150, 24)
    assert [row for part in parts for row in range(150)[part]] == list(range(150))
    assert max(part.stop - part.start for part in parts) <= NEIGHBOURS


def test_short_prompts_are_not_padded_to_a_long_one(
    open_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows are put in the order of their lengths, and their texts are those of every other batch."""
    params = SamplingParams(max_tokens=6, ignore_eos=True)
    lengths = (2, 40, 3, 38, 2)
    requests = [
        Request(f"{row}", (1 + row % 4, *(3, 2, 2, 1) * 10)[:length], params) for row, length in enumerate(lengths)
    ]
    alone = {one.id: one.token_ids for one in open_decoder(Plan("race", 1, 2), batch_size=1).generate(requests)}
    decoder = open_decoder(Plan("race", 1, 2), batch_size=5, tokens_per_call=64)
    fed: list[tuple[int, ...]] = []
    forward = decoder._loop.pair.target.forward

    def counted(call: Call):
        fed.append(tuple(call.input_ids_BT.shape))
        return forward(call)

    monkeypatch.setattr(decoder._loop.pair.target, "forward", counted)
    together = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    assert together == alone
    assert fed[:2] == [(3, 2), (2, 39)]


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 1, 3), Plan("race", 2, 2), Plan("kseq", 2, 2)], ids=str)
@pytest.mark.parametrize("prefix_tokens", [0, None])
def test_a_long_text_is_read_in_parts_while_others_go_on(
    open_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch, plan: Plan, prefix_tokens: int | None
) -> None:
    """No call reads more than its tokens of a long text between two rounds, and every text is what it is alone."""
    prompts = [(1, 2), (3, 1), *((1 + row % 2, *(3, 2, 2, 1) * 12)[:47] for row in range(4)), (2, 2)]
    requests = [
        Request(f"{row}", prompt, SamplingParams(max_tokens=12 + 5 * row, ignore_eos=True))
        for row, prompt in enumerate(prompts)
    ]
    alone = {one.id: one.token_ids for one in open_decoder(plan, batch_size=1, prefix_tokens=0).generate(requests)}
    decoder = open_decoder(plan, batch_size=3, tokens_per_call=16, prefix_tokens=prefix_tokens)
    steps: list[str] = []
    reading, rounds = decoder._loop.pair.reader.prefill, decoder._loop._turns._batching.pack

    def read(feeds_draft: bool, batch: list[Row | None], most: int | None = None) -> None:
        before = [row.cached["target"] if row else 0 for row in batch]
        reading(feeds_draft, batch, most)
        copied = decoder.reading.copied
        grown = [row.cached["target"] - held for row, held in zip(batch, before, strict=True) if row]
        assert most is None or copied or max(grown) <= most == 16
        steps.append("all" if most is None else "part")

    def take_part(batch: list[Row | None], behind: set[int], *drafts: Any) -> Any:
        steps.append(f"without {len(behind)}")
        return rounds(batch, behind, *drafts)

    monkeypatch.setattr(decoder._loop.pair.reader, "prefill", read)
    monkeypatch.setattr(decoder._loop._turns._batching, "pack", take_part)
    together = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    assert together == alone
    assert steps.count("part") >= 3
    assert any(step in ("without 1", "without 2") for step in steps), "rows go on while another is read"
    assert (decoder.reading.copied > 0) == (prefix_tokens is None)


def test_what_a_row_that_is_still_read_computes_cannot_fail_it(open_decoder: Callable[..., Decoder]) -> None:
    """Its share of the others' rounds has no finite logits; what that left behind its text is zeroed, and no more."""
    kept: list[tuple[int, dict[str, int]]] = []

    class Unsound(TableEngine):
        behind: ClassVar[set[int]] = set()

        def forward(self, call: Call) -> torch.Tensor:
            logits = super().forward(call)
            if call.first_row == 0 and len(call.input_ids_BT) > 1:
                logits[[row for row in Unsound.behind if row < len(logits)]] = torch.nan
            return logits

    prompts = [(1, 2), (2, 1), *((1 + row, *(3, 2, 2, 1) * 12)[:47] for row in range(3))]
    requests = [
        Request(f"{row}", prompt, SamplingParams(max_tokens=9 + 5 * row, ignore_eos=True))
        for row, prompt in enumerate(prompts)
    ]
    alone = {one.id: one.token_ids for one in open_decoder(Plan.plain(), batch_size=1).generate(requests)}
    decoder = open_decoder(Plan.plain(), batch_size=2, tokens_per_call=8, prefix_tokens=0, engine=Unsound)
    rounds, clear = decoder._loop._turns._batching.pack, decoder._loop.pair.clear

    def take_part(batch: list[Row | None], behind: set[int], *drafts: Any) -> Any:
        Unsound.behind = behind
        return rounds(batch, behind, *drafts)

    def cleared(index: int, held: dict[str, int]) -> None:
        kept.append((index, dict(held)))
        clear(index, held)

    decoder._loop._turns._batching.pack, decoder._loop.pair.clear = take_part, cleared
    together = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
    assert together == alone
    assert kept
    assert all(held["target"] % 8 == 0 and held["target"] > 0 for _, held in kept)
