"""How the threads of PyTorch's products wait for each other while a bundle is built or checked.

Each product ends with a barrier. By default a thread that waits there spins for milliseconds, which pays where every
thread has a core of its own. On a machine that is shared, or in a container that sees more cores than it may use, the
threads keep each other from running, and a product takes many times as long. A build makes thousands of small products
and is rarely alone on its machine, so its threads sleep while they wait; waking up takes microseconds.
"""

from __future__ import annotations

import os

# OpenMP reads it once, when it is loaded, so it is set before PyTorch is imported.
VARIABLE, PASSIVE = "OMP_WAIT_POLICY", "PASSIVE"


def wait_asleep() -> None:
    """Let the threads of this process sleep while they wait, unless the user has said how they wait."""
    os.environ.setdefault(VARIABLE, PASSIVE)
