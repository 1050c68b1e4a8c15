"""The heart: one round of draft, verify, select and commit, over a pair of engines.

The modules:

    plan       what a round does: the rule, the number of drafts K and their length L
    round      the round
    turn       what the rows lack is read, then a round; at most one is issued ahead
    launch     rounds on their way: issued, recorded, replayed, read
    state      the rows of the batch on the device, from round to round
    shape      what the work of a round depends on beside its numbers
    offers     drafts that are given to rows: before the round, and what became of them
    pair       the engines of draft and target, and keeping their caches up with the rows' texts
    batching   the rows of the batch as a round is told of them
    narrow     drafts that score other tokens, or fewer, than the target
    timing     how long each phase took
    surrounded an engine that tells when it is at work
"""
