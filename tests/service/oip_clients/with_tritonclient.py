"""Everything of tritonclient[http] that the service answers; run by test_oip_clients.py."""

from __future__ import annotations

import json
import sys

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def main(address: str, token: str) -> None:
    client = triton.InferenceServerClient(address)
    admin = {"Authorization": f"Bearer {token}"}
    x = np.random.default_rng(0).random((2, 8, 8, 5), np.float32)
    joints = []
    for binary_in in (True, False):
        for binary_out in (True, False):
            features = triton.InferInput("features", x.shape, "FP32")
            features.set_data_from_numpy(x, binary_data=binary_in)
            output = triton.InferRequestedOutput("joints", binary_data=binary_out)
            answer = client.infer(
                "mars",
                [features],
                model_version="10",
                outputs=[output],
                request_id="r-1",
                priority=1,
                timeout=5_000_000,
                # The client adds to them.
                headers=dict(admin),
            )
            assert answer.get_response()["id"] == "r-1"
            joints.append(answer.as_numpy("joints").tolist())
    refused = ""
    try:
        client.infer("venus", [features], headers=dict(admin))
    except InferenceServerException as error:
        refused = error.message()
    client.load_model("mars", headers=admin)
    client.unload_model("mars", headers=admin)
    after_unload = client.get_model_repository_index(headers=admin)
    client.load_model("mars", headers=admin)
    report = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("mars", headers=admin),
        "server": client.get_server_metadata(headers=admin)["name"],
        "model": client.get_model_metadata("mars", headers=admin),
        "max_batch_size": client.get_model_config("mars", headers=admin)["max_batch_size"],
        "statistics": client.get_inference_statistics("mars", headers=admin),
        "index": client.get_model_repository_index(headers=admin),
        "after_unload": after_unload,
        "joints": joints,
        "refused": refused,
    }
    print(json.dumps(report))


main(*sys.argv[1:])
