"""What brings the texts of rows into caches before rounds go on from there.

The modules:

    prefill    reading texts into a cache
    prefixes   what texts share is read once, kept, and copied
    counts     how many tokens were read, and how many copied
"""
