"""spectr, with any of its plans: ``plain``, ``auto``, or rule, K and L, such as ``race 1 4``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from worker import Setup, run

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.plan import PlanChoice

CAPACITY = 512


def build(setup: Setup) -> Path:
    """Build the bundle, once for all plans."""
    bundle = setup.made("spectr", setup.precision)
    if bundle.exists():
        return bundle
    options = [] if setup.precision == "fp32" else ["--quantise", setup.precision]
    if setup.draft is not None:
        options += ["--draft", setup.draft_precision if setup.draft == setup.target else setup.draft]
    command = [str(Path(sys.executable).with_name("spectr-export")), "build", setup.target, *options]
    run(*command, "--capacity", str(CAPACITY), "-o", str(bundle))
    return bundle


def plan_of(words: str) -> PlanChoice:
    """Return the plan that the words mean."""
    if words == "auto":
        return "auto"
    rule, *sizes = words.split()
    return Plan(rule, *map(int, sizes)) if sizes else Plan.plain()


class Spectr:
    """A decoder of the bundle."""

    def __init__(self, bundle: Bundle, plan: PlanChoice, rows: int) -> None:
        self._bundle = bundle
        self._decoder = Decoder(bundle, plan=plan, batch_size=rows)

    def law(self, ids: list[int]) -> list[float]:
        """Score a text as an audit does."""
        scorer = Scorer(self._bundle, backend="onnxruntime", device="cpu", batch_size=1, plan=Plan.plain())
        (score,) = scorer.score([Written(Request("law", tuple(ids[:1])), tuple(ids[1:]))])
        return [math.log(token.probability) for token in score.tokens]

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Decode all prompts in one batch."""
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        requests = [Request(f"{seed}.{place}", tuple(ids), params) for place, ids in enumerate(prompts)]
        rows = {row.id: row for row in self._decoder.generate(requests) if isinstance(row, Completion)}
        return [list(rows[request.id].token_ids) for request in requests]


def open_tool(setup: Setup) -> Spectr:
    """Build the bundle if need be, and open a decoder."""
    return Spectr(Bundle.open(build(setup)), plan_of(setup.plan), setup.rows)
