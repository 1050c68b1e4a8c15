"""The heart: one round of draft, verify, select and commit, over a pair of engines."""
