"""Makes the cases under `cases/`: small models, inputs and what ONNX Runtime answers.

    python -m venv venv && venv/bin/pip install onnx onnxruntime scikit-learn skl2onnx
    venv/bin/python generate_cases.py

Each case is a directory as ONNX's own test data has them: `model.onnx`, `test_data_set_0/input_K.pb`, `output_K.pb`.
Kept small on purpose: all cases together stay under 300 KB.
"""

import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import (
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Binarizer, MinMaxScaler, Normalizer, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier

warnings.filterwarnings("ignore")
OUT = pathlib.Path(__file__).parent / "cases"
random = np.random.RandomState(0)


def save(name, model, feeds):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, feeds)
    data = OUT / name / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    (OUT / name / "model.onnx").write_bytes(model.SerializeToString())
    for k, i in enumerate(session.get_inputs()):
        (data / f"input_{k}.pb").write_bytes(numpy_helper.from_array(feeds[i.name]).SerializeToString())
    for k, o in enumerate(outputs):
        if isinstance(o, list) and isinstance(o[0], dict):  # ZipMap: we pass the scores on
            o = np.array([list(row.values()) for row in o], np.float32)
        (data / f"output_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(o)).SerializeToString())


def learned(name, estimator, x, y, dtype=np.float32, **options):
    estimator.fit(x, y)
    model = to_onnx(estimator, x[:1].astype(dtype), **options)
    save(name, model, {model.graph.input[0].name: x[:8].astype(dtype)})


def classifiers():
    x, y = load_iris(return_X_y=True)
    order = random.permutation(len(x))
    x, y = x[order], y[order]
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    binary = (y == 1).astype(int)
    gaps = x.copy()
    gaps[random.rand(*x.shape) < 0.1] = np.nan
    learned("logistic", LogisticRegression(max_iter=1000), x, y)
    learned("logistic_names", LogisticRegression(max_iter=1000), x, names)
    learned("logistic_binary", LogisticRegression(max_iter=1000), x, binary)
    learned("logistic_plain", LogisticRegression(max_iter=1000), x, y, options={"zipmap": False})
    learned("forest", RandomForestClassifier(3, max_depth=3, random_state=0), x, y)
    learned("forest_binary", RandomForestClassifier(3, max_depth=3, random_state=0), x, binary)
    learned("forest_names", RandomForestClassifier(2, max_depth=3, random_state=0), x, names)
    learned("forest_double", RandomForestClassifier(2, max_depth=3, random_state=0), x, y, dtype=np.float64)
    learned("tree", DecisionTreeClassifier(max_depth=4), x, y)
    learned("boosting", GradientBoostingClassifier(n_estimators=2, random_state=0), x, y)
    learned("boosting_binary", GradientBoostingClassifier(n_estimators=2, random_state=0), x, binary)
    learned("impute_scale", make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()), gaps, y)
    learned("minmax_normalise", make_pipeline(MinMaxScaler(), Normalizer(), LogisticRegression()), x, y)
    learned("binarise", make_pipeline(Binarizer(threshold=2.0), LogisticRegression()), x, y)
    learned("svm", SVC(probability=True, random_state=0), x, y)
    learned("svm_binary", SVC(probability=True, random_state=0), x, binary)
    learned("svm_votes", SVC(kernel="poly"), x, y)
    learned("ridge", RidgeClassifier(), x, y)
    learned("network", MLPClassifier((10,), max_iter=300, random_state=0), x, y)
    learned("bayes", GaussianNB(), x, y)
    learned("calibrated", CalibratedClassifierCV(LogisticRegression(), cv=2), x, y)
    learned("isolation", IsolationForest(n_estimators=2, max_samples=16, random_state=0), x, None, target_opset={"": 15, "ai.onnx.ml": 3})


def regressors():
    x, y = load_diabetes(return_X_y=True)
    both = np.stack([y, -y], 1)
    learned("linear", LinearRegression(), x, y)
    learned("forest_regressor", RandomForestRegressor(2, max_depth=4, random_state=0), x, y)
    learned("forest_two_targets", RandomForestRegressor(2, max_depth=3, random_state=0), x, both)
    learned("extra_trees", ExtraTreesRegressor(2, max_depth=4, random_state=0), x, y)
    learned("boosting_regressor", GradientBoostingRegressor(n_estimators=3, random_state=0), x, y)
    learned("svm_regressor", SVR(C=0.1), x[:40], y[:40])


def network(name, nodes, weights, shape, outputs, opset):
    constants = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *outputs])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    save(name, model, {"x": random.rand(3, *shape).astype(np.float32)})


def normal(*shape):
    return (random.randn(*shape) * 0.3).astype(np.float32)


def convolutional():
    positive = lambda n: np.abs(normal(n)) + np.float32(0.5)
    weights = {
        "w1": normal(8, 1, 3, 3), "b1": normal(8), "w2": normal(16, 8, 3, 3), "scale": positive(16), "bias": normal(16),
        "mean": normal(16), "variance": positive(16), "w3": normal(64, 10), "b3": normal(10),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("MaxPool", ["r1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], auto_pad="SAME_UPPER"),
        helper.make_node("BatchNormalization", ["c2", "scale", "bias", "mean", "variance"], ["n2"]),
        helper.make_node("Relu", ["n2"], ["r2"]),
        helper.make_node("AveragePool", ["r2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p2"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["l"]),
        helper.make_node("Softmax", ["l"], ["y"], axis=1),
    ]
    network("convolutional", nodes, weights, [1, 8, 8], [10], 13)


def attention():
    """One transformer layer whose shapes are worked out in the graph, as exporters write it."""
    ints = lambda *v: np.array(v, np.int64)
    weights = {
        "qkv": normal(16, 48), "out": normal(16, 16), "gain": normal(16) + np.float32(1), "shift": normal(16),
        "up": normal(16, 32), "down": normal(32, 16), "zero": ints(0), "one": ints(1), "heads": ints(2), "size": ints(8),
        "full": ints(16), "half": np.float32(0.5), "one_f": np.float32(1), "root": np.float32(2**0.5), "scale": np.float32(8**-0.5),
    }
    n = helper.make_node
    nodes = [
        n("LayerNormalization", ["x", "gain", "shift"], ["norm"]),
        n("MatMul", ["norm", "qkv"], ["mixed"]),
        n("Split", ["mixed"], ["q", "k", "v"], axis=2),
        n("Shape", ["x"], ["dims"]),
        n("Slice", ["dims", "zero", "one"], ["batch"]),
        n("Gather", ["dims", "one"], ["length"]),
        n("Concat", ["batch", "length", "heads", "size"], ["apart"], axis=0),
        n("Concat", ["batch", "length", "full"], ["together"], axis=0),
    ]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [n("Reshape", [name, "apart"], [name + "4"]), n("Transpose", [name + "4"], [name + "h"], perm=perm)]
    nodes += [
        n("MatMul", ["qh", "kh"], ["raw"]),
        n("Mul", ["raw", "scale"], ["scaled"]),
        n("Softmax", ["scaled"], ["weights"], axis=-1),
        n("MatMul", ["weights", "vh"], ["heads_out"]),
        n("Transpose", ["heads_out"], ["turned"], perm=[0, 2, 1, 3]),
        n("Reshape", ["turned", "together"], ["flat"]),
        n("MatMul", ["flat", "out"], ["projected"]),
        n("Add", ["projected", "x"], ["sum"]),
        n("MatMul", ["sum", "up"], ["wide"]),
        n("Div", ["wide", "root"], ["divided"]),
        n("Erf", ["divided"], ["erf"]),
        n("Add", ["erf", "one_f"], ["plus"]),
        n("Mul", ["wide", "plus"], ["gated"]),
        n("Mul", ["gated", "half"], ["gelu"]),
        n("MatMul", ["gelu", "down"], ["narrow"]),
        n("Add", ["narrow", "sum"], ["y"]),
    ]
    network("transformer", nodes, weights, [5, 16], [5, 16], 17)


if __name__ == "__main__":
    classifiers()
    regressors()
    convolutional()
    attention()
    print(sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file()), "bytes")
