"""Checks that a built model is the original one, and measures what its precision costs.

Modules:
    parity: Compares the logits of an engine with those of the original model.
    reference: The original model as a function from a text to logits.
    tolerance: How far logits may differ.
    widening: Rewrites a half-precision graph to float32, so that any machine can check it.
    quality: Compares how well the stored model and the original predict a text.
    acceptance: Measures how often the target takes what the draft proposes.
"""
