"""What magika itself makes of files: the numbers it feeds its model, and the label the model gives.

    magika_reference.py FILE... > answer.json

Writes {"model": path of the ONNX file, "labels": [...], "files": [{path, features, label, score}]}.
"""

import json
import sys
from pathlib import Path

from magika import Magika


def main() -> None:
    magika = Magika()
    config = magika._model_config
    files = []
    for path in map(Path, sys.argv[1:]):
        result = magika.identify_path(path)
        # The label of the model, before magika's thresholds and overrides are applied to it.
        label, score = str(result.dl.label), float(result.score)
        _, features = magika._get_result_or_features_from_path(path)
        assert features is not None, f"{path}: magika answers without its model"
        files.append({"path": str(path), "features": features.beg + features.end, "label": label, "score": score})
    json.dump(
        {
            "model": str(magika._model_path),
            "labels": [str(label) for label in config.target_labels_space],
            "files": files,
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
