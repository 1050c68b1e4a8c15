"""Reads the checkpoint that a model comes from: fetched, checked, its weights left in their files until needed.

Modules:
    source: Finds the folder of a checkpoint, on the disk or on the hub.
    settings: Reads the JSON files of a checkpoint.
    checkpoint: Checks that the weights of a checkpoint are sound.
    refusal: Refuses models that the engine contract cannot express.
    model: Loads a model and measures its sizes.
    conversion: Gives the weights of a checkpoint the names and shapes of transformers' model.
    ondemand: A model whose matrices are in memory only while they are used.
    tokenizer: Loads a tokenizer, and sees to it that texts are read as its file says.
    chat_template: Tries the chat templates as a run uses them.
    probe: What tokenizers make of some texts.
    vocabulary: The vocabulary that target and draft share.
    generation: The tokens that end a text, and the model's own sampling.
"""
