"""How figures show each rule: the same colour and marker in all of them."""

from __future__ import annotations

COLOURS = {
    "optimal": "black", "otm": "#4b0082", "kseq": "#d55e00", "rrs": "#009e73", "race": "#0072b2", "single": "#888888",
    "rrsw": "#56b4e9", "greedy": "#e69f00", "gls": "#cc79a7", "gbv": "#bcbd22", "traversal": "#8b4513",
    "block": "#444444", "otm-block": "#f0c000",
}  # fmt: skip
MARKERS = {
    "otm": "*", "kseq": "s", "rrs": "^", "race": "o", "single": "x", "rrsw": "<", "greedy": "D", "gls": "v", "gbv": "P",
    "traversal": "X", "block": "+", "otm-block": "h",
}  # fmt: skip
