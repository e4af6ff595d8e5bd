"""Third-party clients, as they are published, against a server process.

Each runs in an environment of its own that `service/scripts/with_client.sh` makes on first use.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.engines import MirrorEngine
from emamba.package import load_package
from emamba_service import __version__

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent / "clients"
# What the script exits with where the environment cannot be made, say without a network.
UNAVAILABLE = 69
NO_TOKEN = "Authorization must be Bearer and a token of this service, but is absent"
LATE = "the answer must be ready within 1e-06 s"


def call(client: str, program: str, server: Any, folder: Path, maps: np.ndarray) -> Any:
    """What a program has seen of the server."""
    tokens = {"infer": server.secrets.infer, "admin": server.secrets.admin}
    (folder / "secrets.json").write_text(json.dumps(tokens))
    np.save(folder / "maps.npy", maps)
    script = ROOT / "service" / "scripts" / "with_client.sh"
    arguments = [server.url, folder / "secrets.json", folder / "maps.npy"]
    ran = subprocess.run(
        [script, sys.executable, client, "python", PROGRAMS / program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode == UNAVAILABLE:
        pytest.skip(ran.stderr.splitlines()[-1])
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def joints(models: Path, version: str, maps: np.ndarray) -> list[list[float]]:
    """The output tensor, by the mirror."""
    package = load_package(models / "mars" / version)
    values = package.decode(MirrorEngine(package.model).run(package.encode(maps)))
    flat: list[list[float]] = values.transpose(0, 2, 1).reshape(-1, 57).astype("<f4").tolist()
    return flat


def test_tritonclient(server: Any, tmp_path: Path, maps: np.ndarray) -> None:
    seen = call("tritonclient", "triton.py", server, tmp_path, maps)
    asked = ("live", "ready", "model ready", "version ready", "unknown ready")
    assert [seen[key] for key in asked] == [True, True, True, True, False]
    assert seen["server"]["version"] == __version__
    assert seen["metadata"]["inputs"] == [
        {"name": "features", "datatype": "FP32", "shape": [-1, 8, 8, 5]}
    ]
    assert seen["metadata"]["versions"] == ["1", "2"]
    assert seen["config"]["input"][0]["data_type"] == "TYPE_FP32"
    assert seen["config"]["max_batch_size"] == 256
    _check_triton_inference(seen["inference"], server, maps)
    _check_triton_repository(seen["repository"], server)
    one, two = seen["statistics"]["model_stats"]
    assert (one["version"], one["inference_count"]) == ("1", 3)
    assert (two["version"], two["inference_count"]) == ("2", 18)
    assert two["inference_stats"]["success"]["count"] == 6
    assert two["inference_stats"]["fail"]["count"] == 1
    assert seen["all statistics"]["model_stats"][1:] == [one, two]


def _check_triton_inference(seen: dict[str, Any], server: Any, maps: np.ndarray) -> None:
    want = joints(server.models, "2", maps)
    assert len(seen["forms"]) == 5
    for name, answer in seen["forms"].items():
        assert answer["joints"] == want
        assert answer["response"]["id"] == name
        is_json = name.endswith("json")
        assert ("data" in answer["response"]["outputs"][0]) is is_json
    assert seen["async"]["joints"] == want
    assert seen["version"]["joints"] == joints(server.models, "1", maps)
    assert seen["version"]["response"]["model_version"] == "1"
    late, sentence = seen["refused"].pop("timeout")
    assert (late, sentence[: len(LATE)]) == ("503", LATE)
    keys = "must have keys among"
    assert seen["refused"] == {
        "model": ["404", "model must be one of digits, mars, but is 'venus'"],
        "version": ["404", "version of mars must be one of 1, 2, but is '7'"],
        "nan": ["422", "frame 0: features must be finite numbers, but hold NaN or infinity"],
        "datatype": ["422", "input features must have datatype FP32, but has 'FP64'"],
        "shape": [
            "422",
            "input features must have shape [n, 8, 8, 5] with n >= 1, but has [8, 8, 5]",
        ],
        "classes": [
            "422",
            f"output joints: parameters {keys} binary_data, but one is 'classification'",
        ],
        "priority": ["422", "parameters: priority must be an integer 0..9, but is 10"],
        "sequence": [
            "422",
            f"parameters {keys} binary_data_output, priority, timeout, but one is 'sequence_id'",
        ],
        "gzip": [
            "415",
            "Content-Encoding must be absent or identity, but is 'gzip'; send the body as it is",
        ],
        "token": ["401", NO_TOKEN],
    }


def _check_triton_repository(seen: dict[str, Any], server: Any) -> None:
    states = {key: [entry["state"] for entry in seen[key]] for key in ("before", "between")}
    assert states == {
        "before": ["READY", "READY", "READY"],
        "between": ["UNAVAILABLE", "READY", "READY"],
    }
    assert (seen["unloaded"], seen["loaded"]) == (False, True)
    assert seen["refused"] == {
        "load": ["403", "token 'camera' must have the scope admin, but has infer"],
        "unload": ["401", NO_TOKEN],
        "config": ["422", "parameters must have no keys, but one is 'config'"],
        "unknown": [
            "404",
            f"{server.models} must hold a package of 'venus', but holds digits, mars",
        ],
        "trace": ["404", "there is no route /v2/trace/setting; GET / lists the routes"],
    }


def test_kserve(server: Any, tmp_path: Path, maps: np.ndarray) -> None:
    seen = call("kserve", "kserve_rest.py", server, tmp_path, maps)
    asked = ("live", "ready", "model ready", "unknown ready")
    assert [seen[key] for key in asked] == [True, True, True, False]
    want = joints(server.models, "2", maps)
    for key, identity in (("json", "k1"), ("binary in", "k2"), ("binary", "k3")):
        answer = {"id": identity, "model": "mars", "shape": [3, 57], "joints": want}
        assert seen[key] == answer
    assert seen["in time"]["joints"] == want
    late, sentence = seen["refused"].pop("timeout")
    assert (late, sentence[: len(LATE)]) == (503, LATE)

    def refused(status: int, reason: str, sentence: str, model: str = "mars") -> list[Any]:
        url = f"{server.url}/v2/models/{model}/infer"
        return [status, f"{sentence}, '{status} {reason}' for url '{url}'"]

    no = "Unprocessable Entity"
    assert seen["refused"] == {
        "model": refused(
            404, "Not Found", "model must be one of digits, mars, but is 'venus'", "venus"
        ),
        "other model": refused(
            422, no, "inputs[0] must have the name image, but has 'features'", "digits"
        ),
        "name": refused(422, no, "inputs[0] must have the name features, but has 'x'"),
        "datatype": refused(422, no, "input features must have datatype FP32, but has 'INT32'"),
        "token": refused(401, "Unauthorized", NO_TOKEN),
    }
