"""ResNet50's weights and all inputs, from seeds: the same numbers wherever they are made. Needs numpy alone."""

import json
from pathlib import Path

import numpy as np

FILE = "resnet50.weights"


def weight(name: str, shape: list[int], rng: np.random.RandomState | np.random.Generator) -> np.ndarray:
    """Scaled so that scores stay apart and no class drowns the others."""
    if name.endswith("_bn_riv_0"):  # variance
        value = rng.uniform(0.5, 1.5, shape)
    elif name.endswith("branch2c_bn_s_0"):  # the residual's scale: small, or the sum grows with each block
        value = rng.uniform(0.1, 0.3, shape)
    elif name.endswith("_bn_s_0"):
        value = rng.uniform(0.8, 1.2, shape)
    elif len(shape) == 4:
        value = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    elif len(shape) == 2:
        value = rng.standard_normal(shape) * 0.1 * np.sqrt(1 / shape[1])
    else:
        value = rng.standard_normal(shape) * 0.05
    return value.astype(np.float32)


def make(folder: Path) -> None:
    """Writes the file of weights that `resnet50.onnx` names."""
    # numpy promises RandomState's numbers for good.
    rng = np.random.RandomState(50)
    with (folder / FILE).open("wb") as file:
        for name, shape in json.loads((folder / "weights.json").read_text()):
            file.write(weight(name, shape, rng).tobytes())


def numbers(shape: list[int]) -> np.ndarray:
    """An input."""
    return np.random.RandomState(224).uniform(0, 1, shape).astype(np.float32)
