"""From logits to the laws that tokens are drawn from."""
