"""Libraries that report how they are used are told not to.

An offline decoder sends nothing. ONNX Runtime since 1.29 looks up a host of its maker in every process and keeps a
device id in the home folder; Ray and the hub's client report their use too. Each reads a variable when it is loaded,
so the variables are set as soon as anything of spectr is imported; child processes inherit them. A variable that the
user has set stays as it is, also if it asks for reports.
"""

from __future__ import annotations

import os

VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}


def turn_off() -> None:
    """Set the variables that the user has not set."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
