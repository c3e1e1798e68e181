"""Triton's own clients against a running model: clients.py HOST:PORT MODEL, where MODEL is the iris classifier.

Prints `ok` where everything is as Triton would answer; else fails with what was not.
"""

import asyncio
import sys

import numpy as np
import tritonclient.grpc as grpcclient
import tritonclient.grpc.aio as grpcaio
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
from tritonclient.utils import InferenceServerException

ROWS = np.array([[6.8, 2.8, 4.8, 1.4], [5.1, 3.5, 1.4, 0.2]], dtype=np.float32)


def tensor(module, name, rows=ROWS, **options):
    made = module.InferInput(name, list(rows.shape), "FP32")
    made.set_data_from_numpy(rows, **options)
    return made


def check(what, found, expected=True):
    assert found == expected, f"{what}: {found!r}, not {expected!r}"


def same(what, first, second):
    for output, (a, b) in {name: (first.as_numpy(name), second.as_numpy(name)) for name in OUTPUTS}.items():
        assert a is not None and b is not None, f"{what}: no {output}"
        np.testing.assert_array_equal(a, b, err_msg=f"{what}: {output}")


def fails(what, call, part):
    try:
        call()
    except InferenceServerException as error:
        assert part in str(error), f"{what}: {error} lacks {part!r}"
    else:
        raise AssertionError(f"{what}: no error")


address, model = sys.argv[1:]
http = httpclient.InferenceServerClient(address)
grpc = grpcclient.InferenceServerClient(address)

# Metadata.
metadata = http.get_model_metadata(model)
INPUT = metadata["inputs"][0]["name"]
OUTPUTS = [output["name"] for output in metadata["outputs"]]
over_grpc = grpc.get_model_metadata(model)
check("metadata", [tensor.name for tensor in over_grpc.outputs], OUTPUTS)
check("metadata", list(over_grpc.inputs[0].shape), metadata["inputs"][0]["shape"])
check("datatype", metadata["inputs"][0]["datatype"], "FP32")

# Health.
for client in (http, grpc):
    check("live", client.is_server_live())
    check("ready", client.is_server_ready())
    check("model ready", client.is_model_ready(model))

# Inference: binary, JSON, packed, raw; then gRPC, alone and in a stream.
binary = http.infer(model, [tensor(httpclient, INPUT)], request_id="7")
check("id", binary.get_response()["id"], "7")
label = next(name for name in OUTPUTS if binary.as_numpy(name).dtype == np.int64)
check("labels", binary.as_numpy(label).tolist(), [1, 0])
in_json = http.infer(
    model,
    [tensor(httpclient, INPUT, binary_data=False)],
    outputs=[httpclient.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS],
)
same("JSON", in_json, binary)
mixed = http.infer(
    model,
    [tensor(httpclient, INPUT)],
    outputs=[httpclient.InferRequestedOutput(name, binary_data=index == 0) for index, name in enumerate(OUTPUTS)],
)
same("mixed", mixed, binary)
many = np.tile(ROWS, (200, 1))
for coding in ("gzip", "deflate"):
    packed = http.infer(
        model,
        [tensor(httpclient, INPUT, many)],
        request_compression_algorithm=coding,
        response_compression_algorithm=coding,
    )
    check(coding, packed.as_numpy(label).tolist(), [1, 0] * 200)

raw = grpc.infer(model, [tensor(grpcclient, INPUT)], request_id="8")
check("id", raw.get_response().id, "8")
same("gRPC", raw, binary)
for coding in ("gzip", "deflate"):
    same(f"gRPC {coding}", grpc.infer(model, [tensor(grpcclient, INPUT)], compression_algorithm=coding), binary)

answers = []
grpc.start_stream(lambda result, error: answers.append((result, error)))
for request_id in range(20):
    grpc.async_stream_infer(model, [tensor(grpcclient, INPUT)], request_id=str(request_id))
grpc.stop_stream()
check("stream errors", [error for _, error in answers if error], [])
check("stream order", [result.get_response().id for result, _ in answers], [str(i) for i in range(20)])
same("stream", answers[0][0], binary)

# Configuration, statistics, index.
config = http.get_model_config(model)
over_grpc = grpc.get_model_config(model).config
check("configuration", (over_grpc.name, over_grpc.max_batch_size), (config["name"], config["max_batch_size"]))
check("configuration", [list(i.dims) for i in over_grpc.input], [i["dims"] for i in config["input"]])
stats = http.get_inference_statistics(model)["model_stats"][0]
assert stats["inference_count"] >= stats["execution_count"] > 0, stats
assert stats["inference_stats"]["success"]["count"] >= 27, stats
over_grpc = grpc.get_inference_statistics(model).model_stats[0]
check("statistics", over_grpc.inference_count, stats["inference_count"])
entry = {"name": model, "version": "1", "state": "READY", "reason": ""}
assert entry in http.get_model_repository_index()
check("index", [entry.state for entry in grpc.get_model_repository_index().models if entry.name == model], ["READY"])
check("name", grpc.get_server_metadata().name, http.get_server_metadata()["name"])



# The asynchronous clients.
async def in_turns():
    async with httpaio.InferenceServerClient(address) as client:
        check("aio live", await client.is_server_live())
        check("aio model ready", await client.is_model_ready(model))
        same("aio", await client.infer(model, [tensor(httpclient, INPUT)]), binary)
    async with grpcaio.InferenceServerClient(address) as client:
        check("gRPC aio live", await client.is_server_live())
        check("gRPC aio model ready", await client.is_model_ready(model))
        answers = await asyncio.gather(*[client.infer(model, [tensor(grpcclient, INPUT)]) for _ in range(20)])
        for answer in answers:
            same("gRPC aio", answer, binary)

        async def requests():
            for request_id in range(5):
                yield {"model_name": model, "inputs": [tensor(grpcclient, INPUT)], "request_id": str(request_id)}

        ids = []
        async for result, error in client.stream_infer(requests()):
            check("gRPC aio stream", error, None)
            ids.append(result.get_response().id)
        check("gRPC aio stream order", ids, [str(i) for i in range(5)])


asyncio.run(in_turns())

# What perf_analyzer asks before, between and after its load.
for client in (http, grpc):
    as_json = {} if client is http else {"as_json": True}
    measured = client.get_model_metadata(model, **as_json)
    configured = client.get_model_config(model, **as_json)
    configured = configured.get("config", configured)
    assert configured["max_batch_size"] > 0, configured
    check("batch dimension", int(measured["inputs"][0]["shape"][0]), -1)
    check("inputs", [i["name"] for i in configured["input"]], [i["name"] for i in measured["inputs"]])
    check("outputs", [o["name"] for o in configured["output"]], [o["name"] for o in measured["outputs"]])
    decoupled = configured.get("model_transaction_policy", {}).get("decoupled", False)
    check("decoupled", decoupled, False)
    before = client.get_inference_statistics(model, **as_json)["model_stats"][0]
    module = httpclient if client is http else grpcclient
    for _ in range(8):
        client.infer(model, [tensor(module, INPUT)])
    after = client.get_inference_statistics(model, **as_json)["model_stats"][0]
    count = lambda stats: int(stats["inference_stats"]["success"]["count"])
    check("statistics of the load", count(after) - count(before), 8)
    for part in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert int(after["inference_stats"][part]["ns"]) >= 0, after

# Errors.
wrong = np.zeros((1, 3), dtype=np.float32)
fails("HTTP shape", lambda: http.infer(model, [tensor(httpclient, INPUT, wrong)]), "does not fit")
fails("gRPC shape", lambda: grpc.infer(model, [tensor(grpcclient, INPUT, wrong)]), "INVALID_ARGUMENT")
fails("gRPC model", lambda: grpc.infer("no-such-model", [tensor(grpcclient, INPUT)]), "NOT_FOUND")

print("ok")
