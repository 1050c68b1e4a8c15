"""Decides how the weights of a model are stored, and writes them.

Modules:
    precision: The type of a model's numbers and its quantisation.
    plan: Which weights of a model are quantised, and the form in which each is written.
    quantiser: Rounds matrices to int8, int4 or fp8 by their weights alone.
    levels: The levels of int4, and the ways to choose them.
    compensation: Rounds a matrix to int4 so that later weights make up for the errors of earlier ones.
    reading: Rounds each matrix of a model by its inputs while the model reads a text.
    kept: Which matrices of a quantised checkpoint stay in their blocks.
    packing: Puts such blocks into the form of a bundle.
    experts: Rounds the stacked experts of a mixture.
    activations: Measures the inputs of linear layers, for the scales of fp8.
    save: Writes the folder of a model.
"""
