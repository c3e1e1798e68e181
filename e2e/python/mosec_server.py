"""Serves an ONNX file with mosec and onnxruntime, for the bench: rows of FP32 in, rows of FP32 out, both as raw bytes.

    MODEL=file.onnx ROW=3,224,224 THREADS=2 BATCH=8 WAIT_MS=1 mosec_server.py --port 8000
"""

import os

import numpy as np
import onnxruntime
from mosec import Server, Worker

ROW = tuple(int(size) for size in os.environ["ROW"].split(","))


class Model(Worker):
    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        self.session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def deserialize(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, dtype=np.float32).reshape(ROW)

    def serialize(self, data: np.ndarray) -> bytes:
        return data.tobytes()

    def forward(self, data):
        if not isinstance(data, list):  # mosec hands over a single one where batching is off
            return self.session.run(None, {self.name: data[None]})[0][0]
        return list(self.session.run(None, {self.name: np.stack(data)})[0])


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Model, num=1, max_batch_size=int(os.environ["BATCH"]), max_wait_time=int(os.environ["WAIT_MS"])
    )
    server.run()
