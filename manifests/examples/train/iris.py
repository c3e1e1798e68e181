"""Trains iris.onnx: logistic regression on the four measurements of a flower.

    pip install -r requirements.txt && python iris.py
"""

from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

TARGET = Path(__file__).parent.parent / "iris.onnx"
# The two flowers that every KServe tutorial asks for, and their answer.
FLOWERS = np.array([[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], dtype=np.float32)


def main() -> None:
    measurements, species = load_iris(return_X_y=True)
    model = LogisticRegression(max_iter=1000).fit(measurements, species)

    graph = to_onnx(
        model,
        initial_types=[("input", FloatTensorType([None, 4]))],
        # Scores as one tensor [N, 3] instead of a list of maps.
        options={id(model): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    TARGET.write_bytes(graph.SerializeToString())

    session = onnxruntime.InferenceSession(TARGET, providers=["CPUExecutionProvider"])
    labels, _ = session.run(None, {"input": FLOWERS})
    assert labels.tolist() == [1, 1], labels
    labels, _ = session.run(None, {"input": measurements.astype(np.float32)})
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes, accuracy {np.mean(labels == species):.3f}")


if __name__ == "__main__":
    main()
