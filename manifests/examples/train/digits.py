"""Trains digits.onnx: a small convolutional network that reads handwritten digits of 8x8 pixels.

Plain numpy, so that it trains anywhere in seconds and the same on every run; the graph is written with onnx.helper.
It also writes digits-input.json, a request body with three digits that the network never saw.

    pip install -r requirements.txt && python digits.py
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parent.parent / "digits.onnx"
SAMPLE = Path(__file__).parent.parent / "digits-input.json"
EPOCHS = 30
BATCH = 32
RATE = 2e-3
CHANNELS = (16, 32)


def patches(images: np.ndarray) -> np.ndarray:
    """[N, C, H, W] -> [N, H, W, C*9]: the 3x3 neighbourhood of each pixel, zeros past the edge."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(*images.shape[:1], *images.shape[2:], -1)


def unpatch(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The adjoint of `patches`: adds each patch's gradient back to the pixels it was cut from."""
    n, c, h, w = shape
    gradient = gradient.reshape(n, h, w, c, 3, 3)
    padded = np.zeros((n, c, h + 2, w + 2), dtype=gradient.dtype)
    for row in range(3):
        for column in range(3):
            padded[:, :, row : row + h, column : column + w] += gradient[..., row, column].transpose(0, 3, 1, 2)
    return padded[:, :, 1:-1, 1:-1]


class Network:
    """conv 3x3, ReLU, conv 3x3, ReLU, max pool 2x2, fully connected; trained with Adam."""

    def __init__(self, rng: np.random.Generator) -> None:
        first, second = CHANNELS
        flat = second * 16

        def normal(*shape: int, fan_in: int) -> np.ndarray:
            return (rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)

        self.weights = {
            "conv1.weight": normal(first, 9, fan_in=9),
            "conv1.bias": np.zeros(first, np.float32),
            "conv2.weight": normal(second, first * 9, fan_in=first * 9),
            "conv2.bias": np.zeros(second, np.float32),
            "linear.weight": normal(flat, 10, fan_in=flat),
            "linear.bias": np.zeros(10, np.float32),
        }
        self.moments = {name: (np.zeros_like(w), np.zeros_like(w)) for name, w in self.weights.items()}
        self.steps = 0

    def forward(self, pixels: np.ndarray) -> tuple[np.ndarray, tuple]:
        w = self.weights
        cut1 = patches(pixels / 16)
        hidden1 = np.maximum(cut1 @ w["conv1.weight"].T + w["conv1.bias"], 0).transpose(0, 3, 1, 2)
        cut2 = patches(hidden1)
        hidden2 = np.maximum(cut2 @ w["conv2.weight"].T + w["conv2.bias"], 0).transpose(0, 3, 1, 2)
        n, c, _, _ = hidden2.shape
        blocks = hidden2.reshape(n, c, 4, 2, 4, 2)
        pooled = blocks.max(axis=(3, 5))
        flat = pooled.reshape(n, -1)
        scores = flat @ w["linear.weight"] + w["linear.bias"]
        return scores, (cut1, hidden1, cut2, hidden2, blocks, pooled, flat)

    def step(self, pixels: np.ndarray, digits: np.ndarray, rate: float) -> None:
        w = self.weights
        scores, (cut1, hidden1, cut2, hidden2, blocks, pooled, flat) = self.forward(pixels)
        softmax = np.exp(scores - scores.max(axis=1, keepdims=True))
        softmax /= softmax.sum(axis=1, keepdims=True)
        softmax[np.arange(len(digits)), digits] -= 1
        d_scores = softmax / len(digits)

        d_pooled = (d_scores @ w["linear.weight"].T).reshape(pooled.shape)
        winners = blocks == pooled[:, :, :, None, :, None]
        d_hidden2 = (winners * d_pooled[:, :, :, None, :, None]).reshape(hidden2.shape) * (hidden2 > 0)
        d_out2 = d_hidden2.transpose(0, 2, 3, 1)
        d_hidden1 = unpatch(d_out2 @ w["conv2.weight"], hidden1.shape) * (hidden1 > 0)
        d_out1 = d_hidden1.transpose(0, 2, 3, 1)

        def rows(a: np.ndarray) -> np.ndarray:
            return a.reshape(-1, a.shape[-1])

        self.adam(
            {
                "conv1.weight": rows(d_out1).T @ rows(cut1),
                "conv1.bias": rows(d_out1).sum(axis=0),
                "conv2.weight": rows(d_out2).T @ rows(cut2),
                "conv2.bias": rows(d_out2).sum(axis=0),
                "linear.weight": flat.T @ d_scores,
                "linear.bias": d_scores.sum(axis=0),
            },
            rate,
        )

    def adam(self, gradients: dict[str, np.ndarray], rate: float) -> None:
        self.steps += 1
        for name, gradient in gradients.items():
            mean, square = self.moments[name]
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient**2 - square)
            unbiased = mean / (1 - 0.9**self.steps)
            scale = np.sqrt(square / (1 - 0.999**self.steps)) + 1e-8
            self.weights[name] -= (rate * unbiased / scale).astype(np.float32)


def graph(weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    first, second = CHANNELS
    constants = {
        "scale": np.array(1 / 16, np.float32),
        "conv1.weight": weights["conv1.weight"].reshape(first, 1, 3, 3),
        "conv1.bias": weights["conv1.bias"],
        "conv2.weight": weights["conv2.weight"].reshape(second, first, 3, 3),
        "conv2.bias": weights["conv2.bias"],
        "linear.weight": weights["linear.weight"],
        "linear.bias": weights["linear.bias"],
    }
    same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        # Pixels come as the data set has them, 0 to 16: scaling is the model's business, not the client's.
        helper.make_node("Mul", ["image", "scale"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "conv1.weight", "conv1.bias"], ["conv1"], **same),
        helper.make_node("Relu", ["conv1"], ["relu1"]),
        helper.make_node("Conv", ["relu1", "conv2.weight", "conv2.bias"], ["conv2"], **same),
        helper.make_node("Relu", ["conv2"], ["relu2"]),
        helper.make_node("MaxPool", ["relu2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "linear.weight", "linear.bias"], ["scores"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    pixels, digits = load_digits(return_X_y=True)
    pixels = pixels.astype(np.float32).reshape(-1, 1, 8, 8)
    seen, unseen, seen_digits, unseen_digits = train_test_split(
        pixels, digits, test_size=0.2, random_state=7, stratify=digits
    )

    rng = np.random.default_rng(7)
    network = Network(rng)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(seen))
        rate = RATE * (1 - epoch / EPOCHS)
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            network.step(seen[batch], seen_digits[batch], rate)

    onnx.save(graph(network.weights), TARGET)

    session = onnxruntime.InferenceSession(TARGET, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": unseen})
    np.testing.assert_allclose(scores, network.forward(unseen)[0], rtol=1e-3, atol=1e-3)
    accuracy = np.mean(scores.argmax(axis=1) == unseen_digits)
    assert accuracy > 0.97, accuracy

    sample = [int(np.flatnonzero(unseen_digits == digit)[0]) for digit in (3, 1, 4)]
    assert scores[sample].argmax(axis=1).tolist() == [3, 1, 4]
    SAMPLE.write_text(json.dumps({"instances": unseen[sample].astype(int).tolist()}) + "\n")
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes, accuracy {accuracy:.3f} on {len(unseen)} unseen digits")


if __name__ == "__main__":
    main()
