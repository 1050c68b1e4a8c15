"""spectr, with any of its plans: ``plain``, ``auto``, or rule, K and L, such as ``race 1 4``.

Behind a plan, ``without prefixes`` turns the store of what prompts share off.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from worker import Setup, run

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer
from spectr_runtime.speculation.plan import PlanChoice

WITHOUT = " without prefixes"


def build(setup: Setup) -> Path:
    """Build the bundle, once for all plans."""
    bundle = setup.made("spectr", setup.precision)
    if bundle.exists():
        return bundle
    options = [] if setup.precision == "fp32" else ["--quantise", setup.precision]
    if setup.draft is not None:
        options += ["--draft", setup.draft_precision if setup.draft == setup.target else setup.draft]
    command = [str(Path(sys.executable).with_name("spectr-export")), "build", setup.target, *options]
    run(*command, "--capacity", str(setup.capacity), "-o", str(bundle))
    return bundle


def plan_of(words: str) -> PlanChoice:
    """Return the plan that the words mean."""
    if words == "auto":
        return "auto"
    rule, *sizes = words.split()
    return Plan(rule, *map(int, sizes)) if sizes else Plan.plain()


class Spectr:
    """A decoder of the bundle."""

    def __init__(self, bundle: Bundle, plan: PlanChoice, rows: int, prefix_tokens: int | None) -> None:
        self._bundle = bundle
        self._decoder = Decoder(bundle, plan=plan, batch_size=rows, prefix_tokens=prefix_tokens)

    def law(self, ids: list[int]) -> list[float]:
        """Score a text as an audit does."""
        scorer = Scorer(self._bundle, backend="onnxruntime", device="cpu", batch_size=1, plan=Plan.plain())
        (score,) = scorer.score([Written(Request("law", tuple(ids[:1])), tuple(ids[1:]))])
        return [math.log(token.probability) for token in score.tokens]

    def decode(self, prompts: list[list[int]], tokens: int, seed: int) -> list[list[int]]:
        """Decode all prompts; as many together as the batch has rows."""
        params = SamplingParams(max_tokens=tokens, ignore_eos=True)
        requests = [Request(f"{seed}.{place}", tuple(ids), params) for place, ids in enumerate(prompts)]
        rows = {row.id: row for row in self._decoder.generate(requests) if isinstance(row, Completion)}
        return [list(rows[request.id].token_ids) for request in requests]


def open_tool(setup: Setup) -> Spectr:
    """Build the bundle if need be, and open a decoder."""
    plan, prefix_tokens = plan_of(setup.plan.removesuffix(WITHOUT)), 0 if setup.plan.endswith(WITHOUT) else None
    return Spectr(Bundle.open(build(setup)), plan, setup.rows, prefix_tokens)
