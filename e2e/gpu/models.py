"""Makes what the measurement compares with, where onnx and onnxruntime are: models, inputs and onnxruntime's answers.

    models.py FOLDER

ResNet50's weights would not fit the pack: `resnet50.onnx` names them in a file beside it, which `weights.py` makes from the same
seed where the measurement runs. Inputs are numbers from a seed as well; only the expected outputs are in the pack.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

import weights

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
EXAMPLES = Path(__file__).resolve().parents[2] / "manifests/examples"


def resnet50(folder: Path) -> None:
    """The graph with its weights beside it, and batches of any size."""
    model = onnx.load(LIGHT)
    graph = model.graph
    shapes = {t.name: numpy_helper.to_array(t).tolist() for t in graph.initializer}
    fills = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    filled = {node.input[0] for node in fills}
    plan, offset = [], 0
    for node in fills:
        graph.node.remove(node)
        name, shape = node.output[0], shapes[node.input[0]]
        size = 4 * int(np.prod(shape))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        for key, value in {"location": weights.FILE, "offset": offset, "length": size}.items():
            tensor.external_data.add(key=key, value=str(value))
        graph.initializer.append(tensor)
        plan.append([name, shape])
        offset += size
    for group in (graph.initializer, graph.input):
        for item in [item for item in group if item.name in filled]:
            group.remove(item)
    names = {t.name for t in graph.initializer}
    # The light model has batches of one, in its input, its output and in the shape that flattens before the last product.
    for value in [i for i in graph.input if i.name not in names] + list(graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT64 and not tensor.external_data:
            array = numpy_helper.to_array(tensor)
            if array.ndim == 1 and array.size == 2 and array[0] == 1:
                tensor.CopyFrom(numpy_helper.from_array(np.array([0, array[1]], np.int64), tensor.name))
    del graph.value_info[:]
    (folder / "resnet50.onnx").write_bytes(model.SerializeToString())
    (folder / "weights.json").write_text(json.dumps(plan))
    weights.make(folder)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    resnet50(folder)
    for name in ("digits", "iris"):
        shutil.copy(EXAMPLES / f"{name}.onnx", folder)
    cases = []
    for name, rows in (("iris", 5), ("digits", 5), ("resnet50", 3)):
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        inputs = [
            {"name": i.name, "shape": [rows, *[d if isinstance(d, int) else 1 for d in i.shape[1:]]]} for i in session.get_inputs()
        ]
        outputs = [o.name for o in session.get_outputs() if o.type == "tensor(float)"]
        given = {i["name"]: weights.numbers(i["shape"]) for i in inputs}
        found = session.run(outputs, given)
        wanted = [{"name": n, "shape": list(v.shape), "data": v.ravel().tolist()} for n, v in zip(outputs, found, strict=True)]
        cases.append({"model": name, "inputs": inputs, "outputs": wanted})
    (folder / "cases.json").write_text(json.dumps(cases))
    (folder / weights.FILE).unlink()


if __name__ == "__main__":
    main()
