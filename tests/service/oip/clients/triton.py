"""Calls everything that a user of tritonclient calls; prints what came as one JSON object.

triton.py URL TOKENS_FILE MAPS      TOKENS_FILE: JSON of infer and admin; MAPS: .npy (n, 8, 8, 5)
"""

from __future__ import annotations

import json
import sys
from urllib.parse import urlsplit

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException


def refused(call, *args, **kwargs):
    """What the client raises, as status and message."""
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return [error.status(), error.message()]
    return None


def features(maps, binary=True, datatype="FP32"):
    tensor = triton.InferInput("features", list(maps.shape), datatype)
    tensor.set_data_from_numpy(maps, binary_data=binary)
    return [tensor]


def joints(binary):
    return [triton.InferRequestedOutput("joints", binary_data=binary)]


def answered(result):
    return {"response": result.get_response(), "joints": result.as_numpy("joints").tolist()}


def inference(client, maps, headers):
    """Every form of request, and those that are refused."""

    def infer(tensors, model="mars", **options):
        # The client adds its own to the headers that it is given.
        return client.infer(model, tensors, headers=dict(headers), **options)

    forms = {}
    for name, binary_in, outputs in (
        ("binary, binary", True, joints(True)),
        ("binary, json", True, joints(False)),
        ("json, binary", False, joints(True)),
        ("json, json", False, joints(False)),
        ("binary, default", True, None),
    ):
        result = infer(features(maps, binary_in), outputs=outputs, request_id=name)
        forms[name] = answered(result)
    one = triton.InferInput("features", list(maps.shape), "FP32")
    one.set_data_from_numpy(np.full_like(maps, np.nan))
    # Its connection, the client's only one, is free again once the result has been read.
    later = client.async_infer("mars", features(maps), headers=dict(headers)).get_result()
    classes = [triton.InferRequestedOutput("joints", class_count=3)]
    return {
        "forms": forms,
        "version": answered(
            infer(features(maps), model_version="1", priority=1, timeout=5_000_000)
        ),
        "async": answered(later),
        "refused": {
            "model": refused(infer, features(maps), "venus"),
            "version": refused(infer, features(maps), model_version="7"),
            "nan": refused(infer, [one]),
            "datatype": refused(infer, features(maps.astype(np.float64), True, "FP64")),
            "shape": refused(infer, features(maps[0])),
            "classes": refused(infer, features(maps), outputs=classes),
            "priority": refused(infer, features(maps), priority=10),
            "timeout": refused(infer, features(maps), timeout=1),
            "sequence": refused(infer, features(maps), sequence_id=3, sequence_start=True),
            "gzip": refused(infer, features(maps), request_compression_algorithm="gzip"),
            "token": refused(client.infer, "mars", features(maps)),
        },
    }


def repository(client, infer_headers, admin_headers):
    """Index, load and unload."""
    refusals = {
        "load": refused(client.load_model, "mars", headers=infer_headers),
        "unload": refused(client.unload_model, "mars"),
        "config": refused(client.load_model, "mars", headers=admin_headers, config="{}"),
        "unknown": refused(client.load_model, "venus", headers=admin_headers),
        "trace": refused(client.get_trace_settings),
    }
    before = client.get_model_repository_index()
    client.unload_model("digits", headers=admin_headers)
    between = client.get_model_repository_index()
    unloaded = client.is_model_ready("digits")
    client.load_model("digits", headers=admin_headers)
    return {
        "refused": refusals,
        "before": before,
        "between": between,
        "unloaded": unloaded,
        "loaded": client.is_model_ready("digits"),
    }


def main(url, tokens_file, maps_file):
    with open(tokens_file) as file:
        tokens = json.load(file)
    maps = np.load(maps_file)
    infer, admin = ({"Authorization": f"Bearer {tokens[kind]}"} for kind in ("infer", "admin"))
    with triton.InferenceServerClient(urlsplit(url).netloc) as client:
        seen = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model ready": client.is_model_ready("mars"),
            "version ready": client.is_model_ready("mars", "1"),
            "unknown ready": client.is_model_ready("venus"),
            "server": client.get_server_metadata(),
            "metadata": client.get_model_metadata("mars"),
            "config": client.get_model_config("mars", "2"),
            "inference": inference(client, maps, infer),
            "statistics": client.get_inference_statistics("mars"),
            "all statistics": client.get_inference_statistics(),
            "repository": repository(client, infer, admin),
        }
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
