"""Compiles the graphs of a bundle to TensorRT engines.

Modules:
    compile: Compiles both models of a bundle and writes a record beside each engine.
    tensorrt: Builds one engine with TensorRT or TensorRT-RTX.
    profiles: The shapes of the calls that an engine serves.
    progress: How far TensorRT has come with an engine.
"""
