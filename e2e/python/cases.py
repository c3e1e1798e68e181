"""Writes a model, inputs and what onnxruntime makes of them as a case of ONNX's tests."""

import pathlib

import numpy
import onnx
import onnxruntime
from onnx import numpy_helper


def tensor(value):
    array = numpy.asarray(value)
    return numpy_helper.from_array(array.astype(object) if array.dtype.kind == "U" else array)


def write(out, name, model, feeds):
    """`feeds` are the inputs by name; models with a ZipMap must be exported without."""
    folder = pathlib.Path(out) / name
    data = folder / "test_data_set_0"
    data.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    for k, i in enumerate(session.get_inputs()):
        (data / f"input_{k}.pb").write_bytes(tensor(feeds[i.name]).SerializeToString())
    for k, value in enumerate(session.run(None, feeds)):
        (data / f"output_{k}.pb").write_bytes(tensor(value).SerializeToString())
