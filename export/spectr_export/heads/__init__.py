"""Drafts that are no models of their own but heads of EAGLE-3 on their target (Li et al. 2025, arXiv 2503.01840).

The modules:

    checkpoint    reading a published head, in either of two layouts
    fit           refusing a head that does not fit its target
    member        building a head, and checking it again
"""
