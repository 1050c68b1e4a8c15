"""The names of the files and folders in a bundle.

    BUNDLE/spectr.json            the manifest
    BUNDLE/tokenizer/             as saved by transformers
    BUNDLE/draft/, target/        config.json, model.safetensors, model.onnx (its weights point into model.safetensors)
    BUNDLE/draft/tokens.safetensors, where the draft scores other tokens than the first ones
    BUNDLE/draft/engines/, ...    compiled engines, each with its record
    BUNDLE/calibration/           how long rounds take, by backend and machine

A checkpoint of transformers has the same names for its configuration and its weights.
"""

from __future__ import annotations

MANIFEST = "spectr.json"
TOKENIZER = "tokenizer"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
TOKENS = "tokens.safetensors"
ENGINES = "engines"
CALIBRATION = "calibration"
