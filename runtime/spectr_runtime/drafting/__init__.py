"""Where the drafts of a round come from.

The modules:

    batch      the batch at the start of a round, and the call that feeds a part of its tree
    source     what a source is: something that fills the tree of a round
    model      the draft model
    head       a head on the target
    given      what was looked up before the round, or nothing
    proposal   what was looked up for one row
    texts      looking up: in the row's own text, and in a corpus
    rates      how much of what was looked up is expected to be accepted
    suffixes   where the end of a text occurred before, and what followed there
    corpus     finished texts and a file of the user's, to look into
"""
