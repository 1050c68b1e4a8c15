"""The evidence of an audit: one number per written token, uniform if the token was drawn from the target's law.

A token y at a place where the target's law is t gives ``u = t(tokens before y) + r t(y)`` in some order of the tokens,
with r uniform and drawn for the audit alone: the randomised probability integral transform. Given everything before it,
u is uniform on [0, 1) if y was drawn from t, whatever the order, so the numbers of all tokens of all rows, one after
another, are independent and uniform. That holds although a row's length depends on what was written, since whether
another token follows is known before it is looked at; and it needs no assumption on models, prompts or rules. An audit
takes a number of tokens that was fixed before; only where a run has fewer is it the number that there are, which the
bound on false alarms knows as a limit for many rows (Anscombe, 1952) instead of a fact for each count.

The order decides which failures show. By d / t, draft to target: a rule that accepts too many drafts writes too many
tokens that the draft likes better than the target, so the numbers pile up at the high end; by how much, is how far the
law is off. By t: another temperature, a wrong truncation or penalty moves the numbers to one end. The first tokens of
the completions, by t, are looked at on their own, since a broken prompt is most visible there.

Accepted lengths are not tested: what their law should be depends on the draft, the rule and the tree, not on the
target, and lossless rules differ in it. Drafts that were wrongly accepted show in the first order.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from spectr_jobs.commands.uniformity import Uniformity
from spectr_runtime.rows.score import Score

FALSE_ALARMS = 1e-3  # of all statistics together
SHOWN_TOKENS = 5


@dataclasses.dataclass(slots=True)
class Evidence:
    """What was collected.

    Attributes:
        seed: The audit's seed.
        by_ratio: Numbers in the order by d / t.
        by_probability: Numbers in the order by t.
        first_tokens: Those of ``by_probability`` that belong to first tokens.
        greedy: Tokens of completions at temperature 0, which were not drawn.
        impossible: How many tokens their law does not allow.
        examples: The first of them, for reading.
    """

    seed: int
    by_ratio: list[float] = dataclasses.field(default_factory=list)
    by_probability: list[float] = dataclasses.field(default_factory=list)
    first_tokens: list[float] = dataclasses.field(default_factory=list)
    greedy: int = 0
    impossible: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def add(self, score: Score) -> None:
        """Take the scores of a completion."""
        request = score.written.request
        for index, token in enumerate(score.tokens):
            if not token.possible:
                self.impossible += 1
                self.examples += [f"token {index} of {request.id!r}"] if self.impossible <= SHOWN_TOKENS else []
        if request.params.temperature == 0:
            self.greedy += len(score.tokens)
            return
        generator = random.Random(f"{self.seed}\0{request.choice}\0{request.id}")
        for index, token in enumerate(score.tokens):
            inside = generator.random() * token.probability
            self.by_ratio.append(min(token.below_by_ratio + inside, 1.0))
            self.by_probability.append(min(token.below_by_probability + inside, 1.0))
            if index == 0:
                self.first_tokens.append(self.by_probability[-1])

    @property
    def statistics(self) -> Mapping[str, Uniformity]:
        """The tests by name."""
        return {
            "draft to target": Uniformity.of(self.by_ratio),
            "probability": Uniformity.of(self.by_probability),
            "first tokens": Uniformity.of(self.first_tokens),
        }

    @property
    def threshold(self) -> float:
        """The p-value below which a statistic fails."""
        return FALSE_ALARMS / len(self.statistics)

    @property
    def p_value(self) -> float:
        """Of all statistics together, by Bonferroni's inequality."""
        found = [one.p_value for one in self.statistics.values()]
        return min(1.0, len(found) * min(found))

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against the rows."""
        return self.impossible == 0 and self.p_value >= FALSE_ALARMS
