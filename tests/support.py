"""What several test folders share: a model whose law is known, a chi-square test, and what was completed."""

# B rows, T tokens fed, L attention length, V vocabulary.
from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch

from spectr_runtime import Call, Completion, ModelSpec, Outcome
from spectr_runtime.contract import KVCache, Output

STATES = 211


class TableEngine:
    """An engine that keeps the contract and whose law of the next token is a table look-up.

    The keys hold token ids, the values positions. The law after a token is chosen by a hash of every (position, token)
    pair that it sees, so a wrong mask, position, slot or compaction changes the law.
    """

    capturable = False

    def __init__(
        self,
        seed: int,
        *,
        vocabulary: int = 5,
        rows: int = 8,
        capacity: int = 128,
        sharpness: float = 1.5,
        device: str = "cpu",
    ) -> None:
        self.spec = ModelSpec("table", 1, 1, 1, vocabulary, capacity)
        self.cache = KVCache(1, rows, 1, capacity, 1, dtype=torch.float32, device=torch.device(device))
        generator = torch.Generator().manual_seed(seed)
        self.logits_SV = sharpness * torch.randn((STATES, vocabulary), generator=generator).to(device)
        self.calls: list[Call] = []

    def forward(self, call: Call) -> torch.Tensor:
        """Contract of ``Engine.forward``."""
        self.calls.append(call)
        rows, tokens = call.input_ids_BT.shape
        device = self.cache.device
        row_B1 = torch.arange(call.first_row, call.first_row + rows, device=device)[:, None]
        # Beyond the capacity, the next line fails.
        slot_BT = call.write_index_B[:, None] + torch.arange(tokens, device=device)
        self.cache.parts()[0][row_B1, 0, slot_BT, 0] = call.input_ids_BT.float()
        self.cache.parts()[1][row_B1, 0, slot_BT, 0] = call.position_ids_BT.float()
        length = call.attention_mask_B1TL.shape[-1]
        token_BL = self.cache.parts()[0][row_B1[:, 0], 0, :length, 0].long()
        position_BL = self.cache.parts()[1][row_B1[:, 0], 0, :length, 0].long()
        state_BT = (call.attention_mask_B1TL[:, 0] * _mark(token_BL, position_BL)[:, None]).sum(-1) % STATES
        return self.logits_SV[state_BT].gather(1, call.logit_index_BM[..., None].expand(-1, -1, self.spec.vocabulary))

    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``."""
        return Output(self.forward(call), None)

    def logits_after(self, text: tuple[int, ...]) -> torch.Tensor:
        """Logits [V] of the token after a text."""
        state = int(_mark(torch.tensor(text), torch.arange(len(text))).sum()) % STATES
        return self.logits_SV[state]


def target_law(prompt: tuple[int, ...], tokens: int, temperature: float) -> torch.Tensor:
    """Exact law of the next tokens of the table of seed 2, as one flat vector over their tuples."""
    engine = TableEngine(2)
    law = torch.ones(1, dtype=torch.float64)
    for length in range(tokens):
        texts = itertools.product(range(engine.spec.vocabulary), repeat=length)
        logits_SV = torch.stack([engine.logits_after((*prompt, *text)) for text in texts])
        law = (law[:, None] * (logits_SV.double() / temperature).softmax(-1)).flatten()
    return law


def _mark(token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    return (token + 1) * (37 * position + 11)


def whole(cache: KVCache) -> torch.Tensor:
    """A copy of all keys and values [2 * layers, rows, Hk, S, head_size]."""
    return torch.cat(cache.pieces)


def write_text(cache: KVCache, row: int, values: torch.Tensor) -> None:
    """Write keys and values [2 * layers, Hk, tokens, head_size] to the first slots of a row."""
    for part, value in zip(cache.parts(row, 1), values, strict=True):
        part[0, :, : values.shape[2]] = value


def fill(cache: KVCache, seed: int = 0) -> torch.Tensor:
    """Fill a cache with random numbers, and return a copy of them."""
    generator = torch.Generator().manual_seed(seed)
    for piece in cache.pieces:
        piece.copy_(torch.randn(piece.shape, generator=generator))
    return whole(cache)


def completions(outcomes: Iterable[Outcome]) -> dict[str, Completion]:
    """What was completed, by id; a failure fails the test."""
    found = {}
    for outcome in outcomes:
        assert isinstance(outcome, Completion), outcome
        found[outcome.id] = outcome
    return found


def chi_square_p_value(counts: torch.Tensor, law: torch.Tensor) -> float:
    """P-value of Pearson's test that counts follow a law; cells that the law expects below 5 times are pooled."""
    from scipy.stats import chi2

    expected = law.double() * counts.sum()
    assert int(counts[law == 0].sum()) == 0, "a token of probability zero was drawn"
    small = expected < 5
    observed = torch.cat([counts[~small], counts[small].sum()[None]]).double()
    expected = torch.cat([expected[~small], expected[small].sum()[None]])
    used = expected > 0
    statistic = float(((observed - expected)[used] ** 2 / expected[used]).sum())
    return float(chi2.sf(statistic, max(1, int(used.sum()) - 1)))


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Total variation distance of two laws."""
    return 0.5 * math.fsum((first.double() - second.double()).abs().tolist())
