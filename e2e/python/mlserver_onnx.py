"""Serves an ONNX file with MLServer and onnxruntime, for the bench: mlserver_onnx.py MODEL HTTP_PORT THREADS BATCH WAIT_S.

Adaptive batching is on, at the batch size and time given; the log of every request is off, and so are workers, since one more
process between the socket and a session that has all threads would only cost. It listens on two more ports behind
the first one (gRPC, metrics), which nobody asks.
"""

import asyncio
import sys

import onnxruntime
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

MODEL, PORT, THREADS, BATCH, WAIT_S = sys.argv[1:]


class Onnx(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(THREADS)
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.fed = self.session.get_inputs()[0].name
        self.given = [output.name for output in self.session.get_outputs()]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0])
        outputs = self.session.run(None, {self.fed: rows})
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            outputs=[NumpyCodec.encode_output(name, output) for name, output in zip(self.given, outputs)],
        )


async def main() -> None:
    port = int(PORT)
    server = MLServer(
        Settings(
            host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2,
            debug=False, parallel_workers=0,
        )  # fmt: skip
    )
    model = ModelSettings(name="m", implementation=Onnx, max_batch_size=int(BATCH), max_batch_time=float(WAIT_S))
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
