"""Writes an ONNX model that gives the mean of each picture: mean.py FILE."""

import sys

import onnx
from onnx import TensorProto, helper

pictures = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])
means = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2, 3], keepdims=0)
graph = helper.make_graph([node], "mean", [pictures], [means])
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), sys.argv[1])
