"""A request on its way through the batch: its tokens, its row, its completion."""
