"""How a model's weights are stored: types, quantisation, and the file that they are written to."""
