"""Moves the weights of a model into a file of their own: external.py MODEL.onnx FOLDER, writes FOLDER/model.onnx."""

import sys
from pathlib import Path

import onnx

onnx.save(
    onnx.load(sys.argv[1]),
    Path(sys.argv[2]) / "model.onnx",
    save_as_external_data=True,
    location="weights.bin",
    size_threshold=256,
)
