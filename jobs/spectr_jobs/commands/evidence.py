"""The evidence of an audit: one number per written token, uniform if the token was drawn from the target's law.

Let t be the target's law at the position where the token y was written. Sort the vocabulary in any fixed order, and let
``u = t(all tokens before y in that order) + r t(y)``, where r is uniform on [0, 1) and drawn for the audit alone. This
is the randomised probability integral transform: given everything that was written before y, u is uniform on [0, 1) if
y was drawn from t, whatever the order. Hence the numbers of all tokens of all rows are independent and uniform.

That needs no assumption about models, prompts or rules. It also holds although the length of a row depends on its
tokens, since whether a next token exists is known before that token is looked at. The bound on false alarms is exact
for a number of tokens that was fixed beforehand, as it is unless the whole run has fewer tokens. In that case the bound
holds in the limit of many rows (Anscombe, 1952).

The order decides which faults can be seen:

- By d / t, the draft's probability over the target's. A rule that accepts too many drafts writes too many tokens that
  the draft likes better than the target does, so the numbers pile up at the high end, the more so the further the law
  of the rows is from t. A bundle without a draft has no such order, nor any drafts that a rule could accept.
- By t. A wrong temperature, truncation or penalty moves the numbers to one end.
- By t, the first tokens of the completions alone, because a broken prompt shows most clearly there.

Accepted lengths are not tested. Their law depends on the draft, the rule and the tree, and lossless rules differ in it.
Drafts that were wrongly accepted show in the first order.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

from spectr_jobs.commands.uniformity import Uniformity
from spectr_runtime.rows.score import Score

FALSE_ALARMS = 1e-3  # the rate at which sound rows fail, over all statistics together
SHOWN_TOKENS = 5


@dataclasses.dataclass(slots=True)
class Evidence:
    """The numbers of all tokens that were scored so far.

    Attributes:
        seed: The audit's seed.
        drafted: Whether the bundle has a draft.
        by_ratio: The numbers u, with the vocabulary sorted by d / t; empty without a draft.
        by_probability: The numbers u, with the vocabulary sorted by t.
        first_tokens: The numbers in ``by_probability`` that belong to the first token of a completion.
        greedy: Count of the tokens written at temperature 0. They were not drawn, so they have no number.
        impossible: Count of the tokens whose probability under their law is 0.
        examples: Descriptions of the first impossible tokens.
    """

    seed: int
    drafted: bool = True
    by_ratio: list[float] = dataclasses.field(default_factory=list)
    by_probability: list[float] = dataclasses.field(default_factory=list)
    first_tokens: list[float] = dataclasses.field(default_factory=list)
    greedy: int = 0
    impossible: int = 0
    examples: list[str] = dataclasses.field(default_factory=list)

    def add(self, score: Score) -> None:
        """Add the scores of a completion."""
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
            if token.below_by_ratio is not None:
                self.by_ratio.append(min(token.below_by_ratio + inside, 1.0))
            self.by_probability.append(min(token.below_by_probability + inside, 1.0))
            if index == 0:
                self.first_tokens.append(self.by_probability[-1])

    @property
    def statistics(self) -> Mapping[str, Uniformity]:
        """The statistics of the three tests, by name; of the two that need no draft if there is none."""
        return {
            **({"draft to target": Uniformity.of(self.by_ratio)} if self.drafted else {}),
            "probability": Uniformity.of(self.by_probability),
            "first tokens": Uniformity.of(self.first_tokens),
        }

    @property
    def threshold(self) -> float:
        """The p-value below which a single statistic fails."""
        return FALSE_ALARMS / len(self.statistics)

    @property
    def p_value(self) -> float:
        """The p-value of all statistics together, by Bonferroni's inequality."""
        found = [statistic.p_value for statistic in self.statistics.values()]
        return min(1.0, len(found) * min(found))

    @property
    def sound(self) -> bool:
        """Whether the rows pass: no token is impossible, and no statistic fails."""
        return self.impossible == 0 and self.p_value >= FALSE_ALARMS
