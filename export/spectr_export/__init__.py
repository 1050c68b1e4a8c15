"""Export: a pair of causal LMs from transformers to a bundle, checked against the original models."""
