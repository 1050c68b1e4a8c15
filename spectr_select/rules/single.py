"""Speculative sampling with one draft (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

The draft x is accepted with probability ``min(1, t(x) / d(x))``; otherwise the token is drawn from ``(t - d)+``. This
is K-SEQ with k = 1, for which the division factor rho is 1.
"""

from __future__ import annotations

from spectr_select.drawing import draw_iid
from spectr_select.rule import Rule
from spectr_select.rules.kseq import KSEQ_TOKEN

SINGLE = Rule(name="single", drawing="iid", draw=draw_iid, select=KSEQ_TOKEN.select, trees="chain")
