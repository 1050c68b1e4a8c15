"""Whether a built model is the original one: parity of its logits, and what its precision costs."""
