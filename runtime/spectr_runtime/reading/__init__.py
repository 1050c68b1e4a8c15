"""What brings the texts of rows into caches before rounds go on from there.

The modules:

    reader     reading what the caches of a pair lack, and scoring prompts
    prefill    reading texts into one cache
    prefixes   what texts share is read once, kept, and copied
    counts     how many tokens were read, and how many copied
"""
