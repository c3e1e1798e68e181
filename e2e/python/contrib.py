"""Cases of the operators that onnxruntime's exporters and optimiser leave in transformers, and of some of ONNX's that its
own cases lack: contrib.py OUT.
"""

import sys

import numpy as np
from onnx import TensorProto, helper

import cases

rng = np.random.default_rng(11)
F, I = TensorProto.FLOAT, TensorProto.INT32


def floats(*dims):
    return rng.normal(size=dims).astype(np.float32)


def case(name, op, inputs, outputs=("y",), types=None, domain="com.microsoft", **attributes):
    """`inputs` is a list of arrays; None is one that is left out."""
    names = [f"x{k}" if v is not None else "" for k, v in enumerate(inputs)]
    node = helper.make_node(op, names, list(outputs), domain=domain, **attributes)
    given = [(n, v) for n, v in zip(names, inputs) if n]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in given]
    results = [helper.make_tensor_value_info(o, (types or {}).get(o, F), None) for o in outputs if o]
    graph = helper.make_graph([node], name, infos, results)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    cases.write(sys.argv[1], name, model, dict(given))


case("fused_matmul", "FusedMatMul", [floats(2, 3, 4), floats(2, 5, 4)], transB=1, alpha=0.25)
case("fused_matmul_both", "FusedMatMul", [floats(4, 3), floats(5, 4)], transA=1, transB=1)
case("gelu", "Gelu", [floats(3, 4)])
case("fast_gelu", "FastGelu", [floats(3, 4), floats(4)])
case("bias_gelu", "BiasGelu", [floats(3, 4), floats(4)])
case("quick_gelu", "QuickGelu", [floats(3, 4)], alpha=1.5)
skip = [floats(2, 3, 8), floats(2, 3, 8), floats(8), floats(8), floats(8)]
case("skip_norm", "SkipLayerNormalization", skip[:4], epsilon=1e-5)
case("skip_norm_sum", "SkipLayerNormalization", skip, ("y", "", "", "sum"))
case("skip_rms", "SkipSimplifiedLayerNormalization", skip[:3], ("y", "", "", "sum"), epsilon=1e-5)
ids = rng.integers(0, 9, (2, 5)).astype(np.int32)
segments = rng.integers(0, 2, (2, 5)).astype(np.int32)
mask = np.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], np.int32)
embed = [ids, segments, floats(9, 8), floats(7, 8), floats(2, 8), floats(8), floats(8), mask]
case("embed_norm", "EmbedLayerNormalization", embed, ("y", "lengths"), {"lengths": I}, epsilon=1e-12)
embed[1] = embed[4] = None
case("embed_norm_plain", "EmbedLayerNormalization", embed[:7], ("y", "lengths"), {"lengths": I})
qkv = [floats(2, 5, 8), floats(8, 24), floats(24)]
case("attention", "Attention", qkv, num_heads=2)
case("attention_raw_mask", "Attention", [*qkv, mask], num_heads=2)
case("attention_lengths", "Attention", [*qkv, mask.sum(1).astype(np.int32)], num_heads=2)
case("attention_causal", "Attention", qkv, num_heads=2, unidirectional=1)
case("attention_bias", "Attention", [*qkv, None, None, floats(2, 2, 5, 5)], num_heads=2, scale=0.3)
heads = [floats(2, 4, 8), floats(2, 5, 8), floats(2, 5, 8)]
case("multi_head", "MultiHeadAttention", heads, num_heads=2)
case("multi_head_masked", "MultiHeadAttention", [*heads, floats(24), mask], num_heads=2)
regions = np.array([[0, 0, 0, 5, 5], [1, 1.4, 2.6, 4.2, 7], [0, 5, 5, 3, 3]], np.float32)
case("max_roi_pool", "MaxRoiPool", [floats(2, 3, 8, 6), regions], domain="", pooled_shape=[2, 3], spatial_scale=0.75)
words = {"cats_strings": ["a", "b", "c"], "cats_int64s": [3, 1, 2]}
strings = np.array([["a", "x"], ["c", "b"]], object)
case("category_mapper", "CategoryMapper", [strings], types={"y": TensorProto.INT64}, domain="ai.onnx.ml", default_int64=-7, **words)
numbers = np.array([1, 2, 9], np.int64)
case("category_mapper_back", "CategoryMapper", [numbers], types={"y": TensorProto.STRING}, domain="ai.onnx.ml", **words)
