"""Runs ONNX's node cases on other inputs through onnxruntime: conformance.py OUT.

For each case whose inputs and outputs are tensors, writes OUT/<case>/input_<k>.pb with changed inputs and
OUT/<case>/output_<k>.pb with what onnxruntime makes of them. Cases that onnxruntime refuses are left out. Floats are
scaled by 0.8 to 1 each, which keeps them in the domain of every function; all other elements change places. Prints where
the cases are.
"""

import pathlib
import sys

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper

# What these give is not determined by their inputs.
RANDOM = {"Bernoulli", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Dropout"}

onnxruntime.set_default_logger_severity(4)


def changed(array, rng):
    if array.dtype in (numpy.float16, numpy.float32, numpy.float64):
        return (array * rng.uniform(0.8, 1.0, array.shape)).astype(array.dtype)
    return numpy.ascontiguousarray(array.reshape(-1)[::-1]).reshape(array.shape)


def operators(graph):
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from operators(attribute.g)


def run(case, out):
    model = onnx.load(case / "model.onnx")
    if RANDOM & set(operators(model.graph)):
        return
    values = [*model.graph.input, *model.graph.output]
    if not all(v.type.HasField("tensor_type") for v in values):
        return
    rng = numpy.random.default_rng(7)
    feeds, tensors = {}, []
    for k, value in enumerate(model.graph.input):
        path = case / "test_data_set_0" / f"input_{k}.pb"
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        if tensor.data_type > onnx.TensorProto.BFLOAT16 or tensor.data_type == onnx.TensorProto.BFLOAT16:
            return
        array = numpy.asarray(changed(numpy_helper.to_array(tensor), rng))
        feeds[value.name] = array
        tensors.append(numpy_helper.from_array(array, value.name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(str(case / "model.onnx"), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, feeds)
    except Exception:  # noqa: BLE001 - whatever it refuses can't be compared
        return
    folder = out / case.name
    folder.mkdir()
    for k, tensor in enumerate(tensors):
        (folder / f"input_{k}.pb").write_bytes(tensor.SerializeToString())
    for k, (array, value) in enumerate(zip(outputs, model.graph.output, strict=True)):
        tensor = numpy_helper.from_array(numpy.asarray(array))
        if tensor.data_type == onnx.TensorProto.UINT8:
            # Floats of eight bits come as bytes.
            tensor.data_type = value.type.tensor_type.elem_type
        (folder / f"output_{k}.pb").write_bytes(tensor.SerializeToString())


def main():
    out = pathlib.Path(sys.argv[1])
    cases = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
    for case in sorted(cases.iterdir()):
        run(case, out)
    print(cases)


if __name__ == "__main__":
    main()
