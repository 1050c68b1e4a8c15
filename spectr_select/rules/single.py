"""Speculative sampling with one draft (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

Accept x with probability ``min(1, t(x) / d(x))``, else emit from ``(t - d)+``: K-SEQ with k = 1, whose rho is 1.
"""

from __future__ import annotations

from spectr_select.drawing import draw_iid
from spectr_select.rule import Rule
from spectr_select.rules.kseq import KSEQ_TOKEN

SINGLE = Rule(name="single", drawing="iid", draw=draw_iid, select=KSEQ_TOKEN.select, trees="chain")
