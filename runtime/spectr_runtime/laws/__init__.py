"""From a model's logits to the laws that tokens are drawn from. Draft and target take the same way.

The modules:

    adjustment    penalties, biases and end tokens that are held back
    written       the texts of rows that these depend on, counted on the device
    sampling      temperature, top-k, top-p and min-p
    logprobs      log-probabilities that a request wants reported, which neither of the two changes
"""
