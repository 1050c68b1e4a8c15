"""A model of how fast a plan decodes: what its calls cost, what is done between them, and how many passes a text takes.

A round of K drafts of L tokens takes one call of the draft that feeds each row's last two tokens, L - 1 calls that feed
it K tokens each, for leaves are not fed, one call of the target that feeds K L + 1 tokens, and the rest: laws, draws,
selection, and the host. All of it is measured for a single row, for half a batch and for a full one; between them a
round costs what straight lines say. A decoding takes the reading of the prompts and, for every pass, a round of the
rows that still write. Calls are measured behind texts of the middle length: the longer a text, the longer a call takes.

How many tokens a pass writes is no part of the time; it follows from how often the d-th draft of a path is accepted
after d - 1, which does not depend on L, so that all plans of K drafts tell it together.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_runtime import Plan
from spectr_runtime.planning.costs import Curve

LENGTHS, DRAFTS = (2, 4, 8), (1, 2, 4, 8)
PLAIN = Plan.plain()
PLANS = (
    PLAIN,
    *(Plan("single", 1, length) for length in LENGTHS),
    *(Plan("kseq", drafts, length) for drafts in DRAFTS for length in LENGTHS),
)
GPU_DRAFT = {"layers": 24, "parameters": 350_000_000}  # a twentieth of the target


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """Seconds of what a round is made of, with so many rows, and of reading prompts before the first one.

    Attributes:
        root: The draft's call that feeds the last two tokens of every row; 0 without drafts.
        level: The draft's call that feeds a token of each path.
        target: The target's call.
        rest: What is no call.
        reading: Reading the prompts of a full batch, with the models that the plan needs; 0 with fewer rows.
    """

    root: float
    level: float
    target: float
    rest: float
    reading: float

    def round(self, plan: Plan) -> float:
        """Return the seconds of a round."""
        drafting = self.root + (plan.length - 1) * self.level if plan.drafts else 0.0
        return drafting + self.target + self.rest


def predicted(plan: Plan, parts: Mapping[int, Parts], passes: Sequence[int]) -> float:
    """Return the seconds in which the texts of a batch are decoded.

    Args:
        plan: What rounds draft.
        parts: What was measured, by the number of rows: one, those of the batch, and some between.
        passes: For every text, how many passes of the target it takes.
    """
    rounds = Curve({rows: one.round(plan) for rows, one in parts.items()})
    alive = [sum(count > turn for count in passes) for turn in range(max(passes))]
    return parts[len(passes)].reading + sum(rounds.at(rows) for rows in alive)


def efficiency(rounds: Sequence[int], accepted: Sequence[int]) -> tuple[float, float]:
    """Return the tokens that a pass writes, and their standard error over texts.

    Args:
        rounds: The rounds of every text, of two at least.
        accepted: The drafts that were accepted in them.
    """
    total, texts = sum(rounds), len(rounds)
    mean = sum(accepted) / total
    squares = sum((got - mean * count) ** 2 for got, count in zip(accepted, rounds, strict=True))
    return 1 + mean, math.sqrt(squares * texts / (texts - 1)) / total


def pooled(depths: Sequence[tuple[int, Sequence[int]]], length: int) -> float:
    """Return the tokens that a pass with paths of a length is expected to write.

    Args:
        depths: For every text of a number of drafts, whatever their length: its rounds, and how many of them accepted
            at least 1, 2, ... drafts, one number for each draft of a path.
        length: The length.
    """
    expected, survives = 1.0, 1.0
    for depth in range(length):
        told = [(rounds, *reached) for rounds, reached in depths if len(reached) > depth]
        survives *= sum(one[depth + 1] for one in told) / max(sum(one[depth] for one in told), 1)
        expected += survives
    return expected


def holds(predicted_speeds: Sequence[float], measured: Sequence[float]) -> bool:
    """Return whether predictions are right: within 15 % in the median of ratios, or within what was measured."""
    ratio = statistics.median(one / other for one, other in zip(predicted_speeds, measured, strict=True))
    return abs(ratio - 1) <= 0.15 or min(measured) <= statistics.median(predicted_speeds) <= max(measured)


def bisected(over: Callable[[float], float], low: float, high: float, steps: int) -> float:
    """Return about where a function that falls passes through zero, between two places."""
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if over(middle) > 0 else (low, middle)
    return (low + high) / 2


def on_gpu(accepted: Mapping[str, float], folder: Path, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Return what the plans would do to a target of seven billion parameters on the GPU of ``gpu_day/predict.py``.

    Rounds cost what that model says, which counts operators and bytes; how much is accepted is taken as it is. Its
    draft is the demo's, whose calls cost their operators and nothing else; told is also what a draft of ``GPU_DRAFT``
    makes of it, whose calls read its weights too and have the operators of its layers.

    Args:
        accepted: Tokens that a pass writes, by plan as ``gpu_day`` names it, plain among them.
        folder: An empty folder for models without weights of their own.
        rows: The numbers of rows that are decoded together.
    """
    from gpu_day.day import SIZES
    from gpu_day.predict import BANDWIDTH, KERNEL, operators_of, rounds_of

    size, counted = SIZES["7b"], operators_of(folder, [*accepted])
    operators, lines = {plan: one.of(size.layers) for plan, one in counted.items()}, []
    layers = (GPU_DRAFT["layers"] - 2) * counted["plain"].of_a_layer  # the demo's draft has two
    call = 2 * GPU_DRAFT["parameters"] / BANDWIDTH + layers * KERNEL
    for count in rows:
        found, plain = rounds_of(size, count, operators, accepted), 0.0
        for plan, tokens in accepted.items():
            seconds, length = found[plan]["round_seconds"], int(plan.split(":")[-1]) if ":" in plan else 0
            plain = plain or seconds
            lines.append(
                {
                    "rows": count, "plan": plan, "block_efficiency": round(tokens, 3),
                    "milliseconds": round(1e3 * seconds, 2),
                    "to_plain": round(tokens * plain / seconds, 3),
                    "to_plain_with_larger_draft": round(tokens * plain / (seconds + length * call), 3),
                }
            )  # fmt: skip
    return lines
