"""Everything of kserve's REST client that the service answers; run by test_oip_clients.py."""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def main(address: str, token: str) -> None:
    url = f"http://{address}"
    admin = {"Authorization": f"Bearer {token}"}
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    x = np.random.default_rng(0).random((2, 8, 8, 5), np.float32)
    joints = []
    for binary in (True, False):
        features = InferInput("features", list(x.shape), "FP32")
        features.set_data_from_numpy(x, binary_data=binary)
        request = InferRequest("mars", [features], request_id="r-1")
        answer = await client.infer(url, request, headers=dict(admin), model_name="mars")
        assert answer.id == "r-1"
        joints.append(answer.outputs[0].as_numpy().tolist())
    refused = ""
    try:
        await client.infer(
            url, InferRequest("venus", [features]), headers=dict(admin), model_name="venus"
        )
    except Exception as error:
        refused = str(error)
    report = {
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "mars"),
        "joints": joints,
        "refused": refused,
    }
    await client.close()
    print(json.dumps(report))


asyncio.run(main(*sys.argv[1:]))
