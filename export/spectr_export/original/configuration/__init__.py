"""What a checkpoint's config.json says beyond sizes, and what a build says in its place.

The modules:

    rotary       whether the parameters of rotary positions are sound
    reach        the longest text that the positions allow
    overrides    fields that `--config` gives
"""
