"""Reads the checkpoint that a model comes from: fetched, checked, its weights left in their files until needed.

Modules:
    source: Finds the folder of a checkpoint, on the disk or on the hub.
    settings: Reads the JSON files of a checkpoint.
    checkpoint: Checks that the weights of a checkpoint are sound.
    refusal: Refuses models that the engine contract cannot express.
    model: Loads a model and measures its sizes.
    conversion: Gives the weights of a checkpoint the names and shapes of transformers' model.
    ondemand: A model whose matrices are in memory only while they are used.
    tokens: The tokenizer, and what a pair shares of it.
    generation: The tokens that end a text, and the model's own sampling.
"""
