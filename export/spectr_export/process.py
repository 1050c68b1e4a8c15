"""How the process of a build waits and cleans up.

Each product of PyTorch ends with a barrier. By default a thread that waits there spins for milliseconds, which pays
where every thread has a core of its own. On a machine that is shared, or in a container that sees more cores than it
may use, the threads keep each other from running, and a product takes many times as long. A build makes thousands of
small products and is rarely alone on its machine, so its threads sleep while they wait; waking up takes microseconds.

A trace makes millions of objects that live until it ends. Python would look through all of them for cycles again and
again, so it looks seldom.
"""

from __future__ import annotations

import gc
import os

# OpenMP reads it once, when it is loaded, so it is set before PyTorch is imported.
VARIABLE, PASSIVE = "OMP_WAIT_POLICY", "PASSIVE"
# New objects after which Python looks for cycles among the youngest, and how many times it does before it looks among
# older ones. Its own values are 700, 10 and 10.
THRESHOLDS = (100_000, 50, 100)


def settle() -> None:
    """Let threads sleep while they wait, unless the user has said how they wait, and look for cycles seldom."""
    os.environ.setdefault(VARIABLE, PASSIVE)
    gc.set_threshold(*THRESHOLDS)
