"""Makes the ONNX graph of a model: traced, simplified, its weights read from the model's one file.

Modules:
    export: Makes and writes the graph of a model, in the order of the modules below.
    tracing: Traces a model, each trace once for all models that have the same.
    kinds: Finds out which layers of a model are alike, so that a few of them are traced.
    repetition: Copies traced layers for the layers that were not traced.
    fusion: Folds constants and puts operators of the opset in place of their parts.
    merging: Joins matrix products that have the same input.
    dequantisation: Puts a DequantizeLinear in place of every quantised matrix.
    rounding: Rounds the inputs of products in fp8 and int8.
    slicing: Turns slices of stacked experts into weights of their own.
    initializers: External weights and constants of a graph.
"""
