"""KServe's Python server with a model that does next to nothing, the mean of each row, for the bench: kserve_server.py PORT."""

import sys

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Mean(Model):
    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        if isinstance(payload, InferRequest):
            rows = payload.inputs[0].as_numpy()
        else:
            rows = np.array(payload["instances"], dtype=np.float32)
        means = rows.reshape(len(rows), -1).mean(axis=1)
        if not isinstance(payload, InferRequest):
            return {"predictions": means.tolist()}
        output = InferOutput(name="y", shape=list(means.shape), datatype="FP32", data=means.tolist())
        # Its server answers a request without an id with an error unless the response has one.
        return InferResponse(response_id=payload.id or "1", model_name="m", infer_outputs=[output])


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1, access_log_format=None)
    server.start([Mean()])
