"""The tokenizer of a checkpoint, and the tokens that a pair shares.

Modules:
    tokenizer: Loads a tokenizer, and sees to it that texts are read as its file says.
    chat_template: Tries the chat templates as a run uses them.
    probe: What tokenizers make of some texts.
    chosen: The tokens that a draft scores, where its checkpoint names them.
    vocabulary: The vocabulary that target and draft share.
"""
