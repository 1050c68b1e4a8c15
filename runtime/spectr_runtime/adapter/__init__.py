"""A transformers model in the shape of the engine contract: attention, cache and experts replaced, not rewritten.

The modules:

    model          the module with the contract's inputs and outputs, and loading it from a bundle
    eagle3         the same for a draft that is a head of EAGLE-3
    attention      the attention function that transformers' models call
    inline         the same for architectures whose attention cannot be chosen
    position       distances between tokens, windows and linear biases, derived from the mask
    layer_cache    the cache of keys and values as a model's layers see it during one call
    rounding       rounding of what fp8 and int8 layers multiply
    experts        mixtures of experts as matrix products
"""
