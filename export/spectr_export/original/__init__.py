"""Reads the checkpoint that a model comes from: fetched, checked, its weights left in their files until needed.

Modules:
    source: Finds the folder of a checkpoint, on the disk or on the hub.
    checkpoint: Checks that the files of a checkpoint are sound.
    refusal: Refuses models that the engine contract cannot express.
    model: Loads a model and measures its sizes.
    conversion: Gives the weights of a checkpoint the names and shapes of transformers' model.
    ondemand: A model whose matrices are in memory only while they are used.
    tokenizer: The tokenizer and the vocabulary that draft and target share.
"""
