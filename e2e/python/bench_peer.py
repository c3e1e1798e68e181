"""onnxruntime's side of the engine's bench: bench_peer.py MODEL INPUTS.json THREADS [OUTPUTS]. The other side and the protocol
are runtime/engine/examples/bench.rs."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

TYPES = {"FP32": "<f4", "INT64": "<i8"}


def resident(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    return 0


def main() -> None:
    model, inputs, threads = sys.argv[1:4]
    folder = Path(inputs).parent
    feed = {}
    for entry in json.loads(Path(inputs).read_text()):
        data = np.fromfile(folder / entry["file"], TYPES[entry["datatype"]])
        feed[entry["name"]] = data.reshape(entry["shape"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    before = resident("VmRSS:")
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    loaded = time.perf_counter() - start
    outputs = session.run(None, feed)
    first = time.perf_counter() - start
    if len(sys.argv) > 4:
        floats = [o for o in outputs if isinstance(o, np.ndarray) and o.dtype == np.float32]
        floats[0].tofile(sys.argv[4])
    del outputs
    print(json.dumps({"load": loaded, "first": first, "memory": max(0, resident("VmHWM:") - before)}), flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter()
            session.run(None, feed)
            times.append(time.perf_counter() - start)
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
