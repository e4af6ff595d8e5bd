"""A closed-loop generator for gRPC, in MLServer's environment: as little Python as there can be.

    python -m bench.serving.grpc_load PORT FRAMES.npy raw|typed CALLS CHANNELS SECONDS

Requests are bytes made beforehand and answers stay bytes. Prints JSON: `requests`, `duration_us`,
`p50_us`, `p99_us`, and `joints` of the first frame.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import uvloop
from mlserver.grpc import dataplane_pb2 as pb

__all__ = ["main"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"


def request_bytes(features: npt.NDArray[np.float32], is_raw: bool) -> bytes:
    """A ModelInfer request for one frame, its values as bytes or as repeated floats."""
    request = pb.ModelInferRequest(model_name="mars")
    tensor = request.inputs.add(name="features", datatype="FP32", shape=[1, *features.shape])
    if is_raw:
        request.raw_input_contents.append(features.tobytes())
    else:
        tensor.contents.fp32_contents.extend(features.ravel().tolist())
    encoded: bytes = request.SerializeToString()
    return encoded


def joints_of(answer: bytes) -> list[float]:
    """The values of an answer, in whichever form they come."""
    response = pb.ModelInferResponse.FromString(answer)
    if response.raw_output_contents:
        values: list[float] = np.frombuffer(response.raw_output_contents[0], np.float32).tolist()
        return values
    return list(response.outputs[0].contents.fp32_contents)


async def load(
    port: int, requests: list[bytes], calls: int, channels: int, seconds: float
) -> dict[str, Any]:
    """So many calls at a time, over so many connections."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    opened = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options) for _ in range(channels)]
    methods = [channel.unary_unary(METHOD) for channel in opened]
    first = await methods[0](requests[0])
    latencies_s: list[float] = []
    begun_s = time.perf_counter()
    end_s = begun_s + seconds

    async def client(number: int) -> None:
        method, at = methods[number % channels], number
        while (sent_s := time.perf_counter()) < end_s:
            await method(requests[at % len(requests)])
            latencies_s.append(time.perf_counter() - sent_s)
            at += 1

    await asyncio.gather(*map(client, range(calls)))
    duration_s = time.perf_counter() - begun_s
    for channel in opened:
        await channel.close()
    p50_s, p99_s = np.percentile(latencies_s, [50, 99], method="inverted_cdf")
    return {
        "requests": len(latencies_s),
        "duration_us": 1e6 * duration_s,
        "p50_us": 1e6 * p50_s,
        "p99_us": 1e6 * p99_s,
        "joints": joints_of(first),
    }


def main() -> None:
    port, path, form, calls, channels, seconds = sys.argv[1:]
    requests = [request_bytes(features, form == "raw") for features in np.load(path)]
    counted = load(int(port), requests, int(calls), int(channels), float(seconds))
    print(json.dumps(uvloop.run(counted)))


if __name__ == "__main__":
    main()
