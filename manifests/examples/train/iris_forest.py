"""Trains iris-forest.onnx: a random forest on the four measurements of a flower.

    pip install -r requirements.txt && python iris_forest.py
"""

from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

TARGET = Path(__file__).parent.parent / "iris-forest.onnx"


def main() -> None:
    measurements, species = load_iris(return_X_y=True)
    measurements = measurements.astype(np.float32)
    seen, unseen, seen_species, unseen_species = train_test_split(
        measurements, species, test_size=0.3, random_state=7, stratify=species
    )
    # Fifty shallow trees: small enough to commit, many enough that a wrong vote count would show.
    model = RandomForestClassifier(n_estimators=50, max_depth=5, random_state=7).fit(seen, seen_species)

    graph = to_onnx(
        model,
        initial_types=[("input", FloatTensorType([None, 4]))],
        options={id(model): {"zipmap": False}},
        target_opset={"": 17, "ai.onnx.ml": 3},
    )
    TARGET.write_bytes(graph.SerializeToString())

    session = onnxruntime.InferenceSession(TARGET, providers=["CPUExecutionProvider"])
    labels, scores = session.run(None, {"input": unseen})
    assert labels.tolist() == model.predict(unseen).tolist()
    np.testing.assert_allclose(scores, model.predict_proba(unseen), atol=1e-5)
    accuracy = np.mean(labels == unseen_species)
    assert accuracy > 0.9, accuracy
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes, accuracy {accuracy:.3f} on {len(unseen)} unseen flowers")


if __name__ == "__main__":
    main()
