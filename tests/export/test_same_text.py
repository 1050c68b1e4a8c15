"""Plain decoding and every race write the same text with a built bundle's engines, sampled or greedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import VOCABULARY

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.backends import Backend
from spectr_runtime.speculation.plan import PlanChoice

PARAMS = (
    SamplingParams(max_tokens=20, ignore_eos=True),
    SamplingParams(max_tokens=20, ignore_eos=True, temperature=0.7, top_p=0.9),
    SamplingParams(max_tokens=20, ignore_eos=True, temperature=0),
)
REQUESTS = [
    Request(f"{row}", tuple(1 + (row * 7 + place) % (VOCABULARY - 1) for place in range(3 + 5 * row)), PARAMS[row % 3])
    for row in range(12)
]


def texts(bundle: Bundle, plan: PlanChoice, batch_size: int, backend: Backend) -> dict[str, tuple[int, ...]]:
    decoder = Decoder(bundle, plan=plan, batch_size=batch_size, backend=backend)
    return {one.id: one.token_ids for one in decoder.generate(REQUESTS) if isinstance(one, Completion)}


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_plain_decoding_and_every_race_write_the_same_text(bundle_path: Path, backend: Backend) -> None:
    bundle = Bundle.open(bundle_path)
    plain = texts(bundle, Plan.plain(), 4, backend)
    assert len(plain) == len(REQUESTS)
    assert len(set(plain.values())) > len(REQUESTS) / 2
    plans: list[tuple[PlanChoice, int]] = [
        (Plan.plain(), 1),
        ("auto", 1),
        ("auto", 5),
        (Plan("race", 1, 3), 3),
        (Plan("race", 3, 2), 12),
    ]
    for plan, batch_size in plans:
        assert texts(bundle, plan, batch_size, backend) == plain, f"{plan}, batch {batch_size}"


def test_other_rules_keep_the_text_at_temperature_zero_alone(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    plain, kseq = (texts(bundle, plan, 4, "onnxruntime") for plan in (Plan.plain(), Plan("kseq", 2, 2)))
    greedy = [request.id for request in REQUESTS if request.params.temperature == 0]
    assert all(kseq[key] == plain[key] for key in greedy)
    assert kseq != plain
