"""Names of the files and folders in a bundle.

    BUNDLE/spectr.json            the manifest
    BUNDLE/tokenizer/             as saved by transformers
    BUNDLE/draft/, target/        config.json, model.safetensors, model.onnx (its weights point into model.safetensors)
    BUNDLE/draft/engines/, ...    compiled engines, each with its record
    BUNDLE/calibration/           what rounds cost, by backend and machine

A checkpoint of transformers names its configuration and its weights alike.
"""

from __future__ import annotations

MANIFEST = "spectr.json"
TOKENIZER = "tokenizer"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GRAPH = "model.onnx"
ENGINES = "engines"
CALIBRATION = "calibration"
