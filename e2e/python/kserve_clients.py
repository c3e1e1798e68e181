"""KServe's own clients against a running model: kserve_clients.py HOST:PORT MODEL, where MODEL is the iris classifier.

Prints `ok` where everything is as KServe would answer; else fails with what was not.
"""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

ROWS = [[6.8, 2.8, 4.8, 1.4], [5.1, 3.5, 1.4, 0.2]]
LABELS = [1, 0]


def check(what, found, expected=True):
    assert found == expected, f"{what}: {found!r}, not {expected!r}"


def request(model, name, binary):
    tensor = InferInput(name=name, shape=[2, 4], datatype="FP32", data=None if binary else sum(ROWS, []))
    if binary:
        tensor.set_data_from_numpy(np.array(ROWS, dtype=np.float32), binary_data=True)
    return InferRequest(model_name=model, infer_inputs=[tensor], request_id="7")


def labels(answer):
    check("id", answer.id, "7")
    found = next(output for output in answer.outputs if output.datatype == "INT64")
    return found.as_numpy().reshape(-1).tolist()


async def rest(url, model):
    v1 = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    answer = await v1.infer(url, {"instances": ROWS}, model_name=model)
    check("v1", answer["predictions"], LABELS)
    check("v1 model ready", await v1.is_model_ready(url, model_name=model))
    check("v1 live", await v1.is_server_live(url))

    v2 = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    check("live", await v2.is_server_live(url))
    check("ready", await v2.is_server_ready(url))
    check("model ready", await v2.is_model_ready(url, model_name=model))
    for binary in (False, True):
        answer = await v2.infer(url, request(model, "input", binary), model_name=model)
        check(f"v2, binary {binary}", labels(answer), LABELS)


async def grpc(address, model):
    client = InferenceGRPCClient(address, timeout=60)
    check("gRPC live", await client.is_server_live())
    check("gRPC ready", await client.is_server_ready())
    check("gRPC model ready", await client.is_model_ready(model))
    for binary in (False, True):
        check(f"gRPC, raw {binary}", labels(await client.infer(request(model, "input", binary))), LABELS)
    await client.close()


async def main(address, model):
    await rest(f"http://{address}", model)
    await grpc(address, model)
    print("ok")


asyncio.run(main(*sys.argv[1:]))
