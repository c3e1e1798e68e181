"""Makes the models of the engine's bench, with seeded numbers for weights: bench_models.py FOLDER.

ResNet50 and ShuffleNet are the graphs that the onnx package ships "light"; the transformer has its real weights; a
MobileNet-like net, an LSTM and a forest are put together here. The examples of the platform stand beside them.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import minilm
import resnet50

LIGHT = resnet50.LIGHT.parent


def model(nodes, inputs, outputs, weights, opset=17) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "bench", inputs, outputs, initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def free_batch(light: onnx.ModelProto) -> onnx.ModelProto:
    """The light models fix the batch to 1, in their input and in the shapes that they reshape to."""
    for group in (light.graph.input, light.graph.output, light.graph.value_info):
        for item in group:
            dims = item.type.tensor_type.shape.dim
            if len(dims) > 1 and dims[0].dim_value == 1:
                dims[0].dim_param = "batch"
    del light.graph.value_info[:]
    shapes = {node.input[1] for node in light.graph.node if node.op_type == "Reshape"}
    for tensor in light.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if tensor.name in shapes and value.size > 1 and value[0] == 1:
            value = value.copy()
            value[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return light


def mobile() -> onnx.ModelProto:
    """Inverted residuals as in MobileNetV2, with batch norms folded as exporters for inference leave them."""
    rng = np.random.default_rng(2)
    nodes, weights = [], {"low": np.float32(0), "high": np.float32(6)}
    value = "x"

    def conv(x, depth, filters, kernel, stride, group, bounded):
        name = f"c{len(nodes)}"
        scale = np.sqrt(2 / (depth // group * kernel * kernel))
        shape = (filters, depth // group, kernel, kernel)
        weights[f"{name}.w"] = (rng.standard_normal(shape) * scale).astype(np.float32)
        weights[f"{name}.b"] = (rng.standard_normal(filters) * 0.05).astype(np.float32)
        attributes = {"strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": group, "kernel_shape": [kernel] * 2}
        nodes.append(helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], **attributes))
        if bounded:
            nodes.append(helper.make_node("Clip", [name, "low", "high"], [f"{name}.r"]))
            return f"{name}.r"
        return name

    value = conv(value, 3, 32, 3, 2, 1, True)
    depth = 32
    for expand, filters, count, stride in [
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ]:
        for k in range(count):
            start, wide = value, depth * expand
            if expand > 1:
                value = conv(value, depth, wide, 1, 1, 1, True)
            value = conv(value, wide, wide, 3, stride if k == 0 else 1, wide, True)
            value = conv(value, wide, filters, 1, 1, 1, False)
            if k > 0:
                nodes.append(helper.make_node("Add", [value, start], [f"a{len(nodes)}"]))
                value = nodes[-1].output[0]
            depth = filters
    value = conv(value, depth, 1280, 1, 1, 1, True)
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    weights["w"] = (rng.standard_normal((1000, 1280)) * 0.02).astype(np.float32)
    weights["b"] = np.zeros(1000, np.float32)
    nodes.append(helper.make_node("Gemm", ["flat", "w", "b"], ["y"], transB=1))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 224, 224])
    return model(nodes, [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1000])], weights)


def lstm() -> onnx.ModelProto:
    """Two layers in both directions and a dense one on the last step."""
    rng = np.random.default_rng(3)
    hidden, weights, nodes, value, size = 128, {"last": np.int64(-1)}, [], "steps", 64
    nodes.append(helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]))
    for layer in range(2):
        parts = {"w": (2, 4 * hidden, size), "r": (2, 4 * hidden, hidden), "b": (2, 8 * hidden)}
        for part, shape in parts.items():
            weights[f"{part}{layer}"] = (rng.standard_normal(shape) / np.sqrt(hidden)).astype(np.float32)
        names = [f"{part}{layer}" for part in parts]
        attributes = {"hidden_size": hidden, "direction": "bidirectional"}
        nodes.append(helper.make_node("LSTM", [value, *names], [f"y{layer}"], **attributes))
        nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{layer}", "joined"], [f"j{layer}"]))
        value, size = f"j{layer}", 2 * hidden
    weights["joined"] = np.array([0, 0, 2 * hidden], np.int64)
    nodes.append(helper.make_node("Gather", [value, "last"], ["end"], axis=0))
    weights["w"] = (rng.standard_normal((2 * hidden, 10)) * 0.1).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["end", "w"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 50, 64])
    return model(nodes, [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])], weights)


def forest(trees=500, depth=9, features=30) -> onnx.ModelProto:
    """A regressor of whole trees; thresholds around the middle of the features."""
    rng = np.random.default_rng(4)
    inner = 2**depth - 1
    nodes = inner + 2**depth
    attributes = {
        "nodes_treeids": np.repeat(np.arange(trees), nodes),
        "nodes_nodeids": np.tile(np.arange(nodes), trees),
        "nodes_featureids": rng.integers(0, features, trees * nodes),
        "nodes_values": rng.standard_normal(trees * nodes).astype(np.float32),
        "nodes_truenodeids": np.tile([2 * k + 1 if k < inner else 0 for k in range(nodes)], trees),
        "nodes_falsenodeids": np.tile([2 * k + 2 if k < inner else 0 for k in range(nodes)], trees),
        "target_treeids": np.repeat(np.arange(trees), nodes - inner),
        "target_nodeids": np.tile(np.arange(inner, nodes), trees),
        "target_ids": np.zeros(trees * (nodes - inner), np.int64),
        "target_weights": (rng.standard_normal(trees * (nodes - inner)) / trees).astype(np.float32),
    }
    attributes = {name: value.tolist() for name, value in attributes.items()}
    attributes["nodes_modes"] = (["BRANCH_LEQ"] * inner + ["LEAF"] * (nodes - inner)) * trees
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", n_targets=1, **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", features])
    return model([node], [x], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])], {}, 15)


def quantised(source: Path, target: Path) -> None:
    """Weights of eight bits, activations quantised as they come: what onnxruntime's own tool makes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def main() -> None:
    folder = Path(sys.argv[1])
    for name in ("resnet50", "shufflenet"):
        light = resnet50.with_weights(onnx.load(LIGHT / f"light_{name}.onnx"))
        onnx.save(free_batch(light), folder / f"{name}.onnx")
    onnx.save(minilm.Graph(14, "divided").model(minilm.weights()), folder / "minilm.onnx")
    quantised(folder / "minilm.onnx", folder / "minilm-int8.onnx")
    for name, make in (("mobile", mobile), ("lstm", lstm), ("forest", forest)):
        made = make()
        onnx.checker.check_model(made)
        onnx.save(made, folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
