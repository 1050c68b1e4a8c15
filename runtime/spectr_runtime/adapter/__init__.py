"""A transformers model in the shape of the engine contract: attention, cache and experts replaced, not rewritten."""
