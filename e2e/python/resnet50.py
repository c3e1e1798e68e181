"""Makes a ResNet50 with weights, an image for it, and onnxruntime's answer.

    resnet50.py FOLDER

The onnx package ships the graph of ResNet50 "light": every weight is a ConstantOfShape. Seeded random numbers take their
place, scaled so that the scores stay apart and no class drowns the others. Writes resnet50.onnx, request.json (V2) and
response.json into FOLDER.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

# What a machine with a GPU makes the same weights with, from numpy alone.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "gpu"))
from weights import weight  # noqa: E402

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"


def with_weights(light: onnx.ModelProto) -> onnx.ModelProto:
    rng = np.random.default_rng(50)
    graph = light.graph
    shapes = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer}
    fills = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    filled = {node.input[0] for node in fills}
    for node in fills:
        graph.node.remove(node)
        value = weight(node.output[0], shapes[node.input[0]], rng)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    for group in (graph.initializer, graph.input):
        for item in [item for item in group if item.name in filled]:
            group.remove(item)
    return light


def main() -> None:
    folder = Path(sys.argv[1])
    model = with_weights(onnx.load(LIGHT))
    onnx.save(model, folder / "resnet50.onnx")

    weights = {tensor.name for tensor in model.graph.initializer}
    (image,) = [item.name for item in model.graph.input if item.name not in weights]
    pixels = np.random.default_rng(224).standard_normal((1, 3, 224, 224)).astype(np.float32).round(3)
    session = onnxruntime.InferenceSession(folder / "resnet50.onnx", providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {image: pixels})
    tensor = {"name": image, "shape": list(pixels.shape), "datatype": "FP32", "data": [round(float(p), 3) for p in pixels.ravel()]}
    (folder / "request.json").write_text(json.dumps({"inputs": [tensor]}))
    output = {"name": model.graph.output[0].name, "shape": list(scores.shape), "data": scores.ravel().tolist()}
    (folder / "response.json").write_text(json.dumps({"outputs": [output]}))


if __name__ == "__main__":
    main()
