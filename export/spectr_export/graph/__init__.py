"""The graph of a model: traced, simplified, its quantised matrices read where the file has them."""
