"""Where the drafts of a round come from.

The modules:

    suffixes   where the end of a text occurred before, and what followed there
    corpus     finished texts and a file of the user's, to look into
"""
