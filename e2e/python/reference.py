"""onnxruntime's answer to a V2 request.

    reference.py MODEL.onnx < request.json > response.json

Reads {"inputs": [{name, shape, datatype, data}]} and writes {"outputs": [{name, shape, data}]} with flat data.
"""

import json
import sys

import numpy as np
import onnxruntime

DTYPES = {"FP32": np.float32, "FP64": np.float64, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "BOOL": np.bool_}


def main() -> None:
    request = json.load(sys.stdin)
    session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
    feeds = {
        tensor["name"]: np.array(tensor["data"], dtype=DTYPES[tensor["datatype"]]).reshape(tensor["shape"])
        for tensor in request["inputs"]
    }
    names = [output.name for output in session.get_outputs()]
    outputs = [
        {"name": name, "shape": list(value.shape), "data": value.ravel().tolist()}
        for name, value in zip(names, session.run(names, feeds), strict=True)
    ]
    json.dump({"outputs": outputs}, sys.stdout)


if __name__ == "__main__":
    main()
