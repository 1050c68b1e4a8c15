"""Laws and models for the tests of select, which run on a single thread because their tensors are tiny."""

# B rows, V vocabulary.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from spectr_select import RULES, DraftTree
from spectr_select.exact.branches import every_branch
from spectr_select.round import draw_level
from spectr_select.rule import Round
from spectr_select.rules import otm, otm_block

Laws = tuple[torch.Tensor, torch.Tensor]
TextLaw = Callable[[tuple[int, ...]], torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _random(vocabulary: int, generator: torch.Generator) -> Laws:
    logits = torch.randn((2, vocabulary), generator=generator, dtype=torch.float64)
    target, draft = (1.5 * logits).softmax(1)
    return target, draft


def _tied(vocabulary: int, generator: torch.Generator) -> Laws:
    target = torch.randint(1, 3, (vocabulary,), generator=generator).double()
    draft = target * torch.tensor([1.0, 2.0], dtype=torch.float64).repeat(vocabulary)[:vocabulary]
    return target / target.sum(), draft / draft.sum()


def _disjoint(vocabulary: int, generator: torch.Generator) -> Laws:
    target, draft = _random(vocabulary, generator)
    left = torch.arange(vocabulary) < vocabulary // 2
    return target * left / (target * left).sum(), draft * ~left / (draft * ~left).sum()


def _one_hot(vocabulary: int, generator: torch.Generator) -> Laws:
    chosen = int(torch.randint(vocabulary, (1,), generator=generator))
    laws = [torch.eye(vocabulary, dtype=torch.float64)[chosen], _random(vocabulary, generator)[0]]
    flipped = bool(torch.randint(2, (1,), generator=generator))
    return (laws[0], laws[1]) if flipped else (laws[1], laws[0])


def _partial(vocabulary: int, generator: torch.Generator) -> Laws:
    target, draft = _random(vocabulary, generator)
    return target * (torch.arange(vocabulary) > 0), draft * (torch.arange(vocabulary) < vocabulary - 1)


def _equal(vocabulary: int, generator: torch.Generator) -> Laws:
    target, _ = _random(vocabulary, generator)
    return target, target


KINDS = {
    "random": _random,
    "tied": _tied,
    "disjoint": _disjoint,
    "one-hot": _one_hot,
    "partial support": _partial,
    "equal": _equal,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        metafunc.parametrize("kind", [*KINDS, *(["mixed"] if "models" in metafunc.fixturenames else [])])


@pytest.fixture
def proposed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let transport be solved once for each pair of laws: under enumeration most rows repeat those of another row."""
    propose = otm.propose

    def once(
        target_BV: torch.Tensor, draft_BV: torch.Tensor, k_B: torch.Tensor, bins: int | None = None
    ) -> otm.Proposal:
        cases_BX = torch.cat([target_BV, draft_BV, k_B[:, None]], 1)
        _, case_B = cases_BX.unique(dim=0, return_inverse=True)
        row_C = torch.zeros(int(case_B.max()) + 1, dtype=torch.int64).scatter(0, case_B, torch.arange(len(case_B)))
        found = propose(target_BV[row_C], draft_BV[row_C], k_B[row_C], bins)
        return otm.Proposal(found.bin_BV[case_B], found.weight_BM[case_B], found.chance_BM[case_B])

    monkeypatch.setattr(otm, "propose", once)
    monkeypatch.setattr(otm_block, "propose", once)


@pytest.fixture
def laws() -> Callable[..., Laws]:
    """``laws(kind, rows, vocabulary, seed=0)``: target and draft laws [B, V]."""

    def build(kind: str, rows: int, vocabulary: int, seed: int = 0) -> Laws:
        generator = torch.Generator().manual_seed(seed)
        pairs = [KINDS[kind](vocabulary, generator) for _ in range(rows)]
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    return build


@pytest.fixture
def models() -> Callable[..., tuple[TextLaw, TextLaw]]:
    """``models(kind, vocabulary, seed=0)``: target and draft with a law of their own after every text."""

    def build(kind: str, vocabulary: int, seed: int = 0) -> tuple[TextLaw, TextLaw]:
        generator = torch.Generator().manual_seed(seed)
        table: dict[tuple[int, ...], Laws] = {}

        def after(text: tuple[int, ...]) -> Laws:
            if text not in table:
                kinds = list(KINDS)
                some = kinds[int(torch.randint(len(kinds), (1,), generator=generator))] if kind == "mixed" else kind
                table[text] = KINDS[some](vocabulary, generator)
            return table[text]

        return lambda text: after(text)[0], lambda text: after(text)[1]

    return build


@pytest.fixture
def distance() -> Callable[[torch.Tensor, torch.Tensor], float]:
    """``distance(first, second)``: the total variation between two laws of one shape."""
    return lambda first, second: 0.5 * math.fsum((first - second).abs().flatten().tolist())


@pytest.fixture
def enumerated() -> Callable[[str, torch.Tensor, torch.Tensor, int], torch.Tensor]:
    """``enumerated(rule, target_BV, draft_BV, k)``: the probability that a draft is accepted, by enumeration."""

    def accepted(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
        tree, found, rows = DraftTree.paths(k, 1), RULES[rule], len(target_BV)
        drawn_RK, drawing = every_branch(rows, lambda c: draw_level(found, tree, 1, draft_BV[c.row_R][:, None], c))
        tokens_RN = torch.cat([torch.zeros_like(drawn_RK[:, :1]), drawn_RK], 1)
        target_RNV = target_BV[drawing.row_R][:, None].expand(-1, tree.size, -1)
        draft_RPV = draft_BV[drawing.row_R][:, None]
        chosen, choosing = every_branch(
            len(tokens_RN),
            lambda c: found.select(Round(tree, tokens_RN[c.row_R], target_RNV[c.row_R], draft_RPV[c.row_R]), c),
        )
        weight_R = drawing.weight_R[choosing.row_R] * choosing.weight_R * (chosen.count_B > 0)
        return torch.zeros(rows, dtype=torch.float64).index_add(0, drawing.row_R[choosing.row_R], weight_R)

    return accepted
