"""Reads quantised checkpoints: each format comes down to codes, scales and minima of blocks.

Modules:
    blocks: A quantised matrix, and the forms in which a bundle holds it.
    gguf: GGUF files.
    ggml: The blocks of GGUF files.
    compressed: Checkpoints of compressed-tensors.
    packed: Checkpoints of GPTQ and AWQ.
    finegrained: Checkpoints in fp8 with a scale for each square of a matrix.
    scheme: Which format a checkpoint is in.
"""
