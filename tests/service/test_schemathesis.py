"""Requests made from the OpenAPI document, good ones and bad, against a live service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

from service.test_live import finish, start
from verify_depth import examples

ROOT = Path(__file__).parents[2]
CHECKS = (
    *("no_failure", "status_code_conformance", "content_type_conformance"),
    "response_schema_conformance",
)


def test_no_made_up_request_makes_the_service_fail(models_dir, points):
    live = start(models_dir)
    operations = len(re.findall(r'"operationId"', (ROOT / "service" / "openapi.json").read_text()))
    try:
        done = subprocess.run(
            [
                *(
                    sys.executable,
                    "-c",
                    "from schemathesis.cli import schemathesis; schemathesis()",
                ),
                *("run", str(ROOT / "service" / "openapi.json"), "--url", live.url),
                *("--checks", ",".join(CHECKS), "--seed", "1", "--no-color"),
                *("--max-examples", str(max(3, examples(100) // operations * 2))),
            ],
            env=os.environ
            | {"SCHEMATHESIS_HOOKS": "service.schemathesis_hooks"}
            | {"PYTHONPATH": str(ROOT / "tests")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr
        (generated,) = re.findall(r"([\d,]+) generated", done.stdout)
        assert int(generated.replace(",", "")) >= examples(300)
        answer = httpx.post(f"{live.url}/v1/pose", json={"points": points})
        assert answer.status_code == 200
    finally:
        finish(live)
