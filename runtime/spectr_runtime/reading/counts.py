"""How the texts of rows came into the target's cache."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Reading:
    """Tokens of the rows' texts so far. What the rounds feed, the last token of every prompt among it, does not count.

    Attributes:
        read: Tokens that the target read.
        calls: Calls that read the texts, of target and draft.
        copied: Tokens whose keys and values were copied instead, since another text that was read begins with them.
    """

    read: int = 0
    calls: int = 0
    copied: int = 0

    def since(self, before: Reading) -> Reading:
        """Return what was added to an earlier state."""
        return Reading(self.read - before.read, self.calls - before.calls, self.copied - before.copied)
