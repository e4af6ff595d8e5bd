"""Calls everything that a user of KServe's REST client calls; prints what came as one JSON object.

kserve_rest.py URL TOKENS_FILE MAPS      TOKENS_FILE: JSON of infer; MAPS: .npy (n, 8, 8, 5)
"""

from __future__ import annotations

import asyncio
import json
import sys

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def refused(call):
    """What the client raises, as status and message."""
    try:
        await call
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]
    return None


def request(maps, *, binary, name="features", datatype="FP32", **options):
    tensor = InferInput(name, list(maps.shape), datatype)
    tensor.set_data_from_numpy(maps, binary_data=binary)
    return InferRequest("mars", [tensor], **options)


def answered(response):
    if isinstance(response, dict):
        return response
    (output,) = response.outputs
    return {
        "id": response.id,
        "model": response.model_name,
        "shape": list(output.shape),
        "joints": output.as_numpy().tolist(),
    }


async def main(url, tokens_file, maps_file):
    with open(tokens_file) as file:
        tokens = json.load(file)
    maps = np.load(maps_file)
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    headers = {"Authorization": f"Bearer {tokens['infer']}"}

    async def infer(asked, model="mars"):
        return await client.infer(url, asked, model_name=model, headers=dict(headers))

    as_bytes = [RequestedOutput("joints", parameters={"binary_data": True})]
    late = {"priority": 1, "timeout": 1}
    in_time = {"priority": 1, "timeout": 5_000_000}
    seen = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model ready": await client.is_model_ready(url, "mars"),
        "unknown ready": await client.is_model_ready(url, "venus"),
        "json": answered(await infer(request(maps, binary=False, request_id="k1"))),
        "binary in": answered(await infer(request(maps, binary=True, request_id="k2"))),
        "binary": answered(
            await infer(request(maps, binary=True, request_id="k3", request_outputs=as_bytes))
        ),
        "in time": answered(await infer(request(maps, binary=True, parameters=in_time))),
        "refused": {
            "model": await refused(infer(request(maps, binary=True), "venus")),
            "other model": await refused(infer(request(maps, binary=True), "digits")),
            "name": await refused(infer(request(maps, binary=False, name="x"))),
            "datatype": await refused(
                infer(request(maps.astype("i4"), binary=True, datatype="INT32"))
            ),
            "timeout": await refused(infer(request(maps, binary=True, parameters=late))),
            "token": await refused(
                client.infer(url, request(maps, binary=True), model_name="mars")
            ),
        },
    }
    await client.close()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
