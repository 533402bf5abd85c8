"""Calls a gateway with the clients of the `kserve` package and prints what came back, as one JSON object.

Runs in an environment of its own, because that package pins much. Usage: python calls.py HTTP_URL GRPC_ADDRESS
"""

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request(model: str, *, binary: bool) -> Any:
    tensor = InferInput("x", [2, 2], "FP32")
    tensor.set_data_from_numpy(np.float32([[1, 2], [3, 4]]), binary_data=binary)
    output = RequestedOutput("y", {"binary_data": binary})
    return InferRequest(model, [tensor], request_id="7", request_outputs=[output])


def seen(response: Any) -> dict[str, Any]:
    return {"id": response.id, "model": response.model_name, "data": response.outputs[0].as_numpy().tolist()}


async def over_rest(url: str) -> dict[str, Any]:
    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        try:
            await client.infer(url, request("nothing", binary=False), model_name="nothing")
            error = None
        except Exception as raised:
            error = str(raised)
        return {
            "live": await client.is_server_live(url),
            "ready": await client.is_server_ready(url),
            "model": await client.is_model_ready(url, "free"),
            "json": seen(await client.infer(url, request("free", binary=False), model_name="free")),
            "binary": seen(await client.infer(url, request("free", binary=True), model_name="free")),
            "error": error,
        }


async def over_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(address) as client:
        try:
            await client.infer(request("nothing", binary=True))
            error = None
        except Exception as raised:
            error = str(raised)
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model": await client.is_model_ready("free"),
            "json": seen(await client.infer(request("free", binary=False))),
            "binary": seen(await client.infer(request("free", binary=True))),
            "error": error,
        }


async def main(http_url: str, grpc_address: str) -> None:
    print(json.dumps({"rest": await over_rest(http_url), "grpc": await over_grpc(grpc_address)}))


asyncio.run(main(*sys.argv[1:]))
