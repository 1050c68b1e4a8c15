"""The heart: one round of draft, verify, select and commit, over a pair of engines.

The modules:

    plan       what a round does: the rule, the number of drafts K and their length L
    round      the round
    pair       the engines of draft and target, and keeping their caches up with the rows' texts
    surrounded an engine that tells when it is at work
    narrow     drafts that lack logits for some tokens
    prefill    reading texts into a cache
    timing     how long each phase took
"""
