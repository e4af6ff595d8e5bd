"""Speed of the mirror beside PyTorch, the same model and frames, interleaved in one run.

    .venv/bin/python bench/mirror.py models/mars/1 --checkpoint models/mars/1/float.safetensors

One thread each. PyTorch runs the float network eagerly, what a user would pick instead; it is left
out where torch is not installed or no checkpoint is given. Figures are measured on this machine.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

# Before NumPy and torch start their thread pools.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from emamba.engines import open_engine
from emamba.package import load_package

BATCHES = (1, 8, 64, 256)
Runner = Callable[[int], object]


def main(
    package: Annotated[Path, typer.Argument(help="Package folder.")] = Path("models/mars/1"),
    checkpoint: Annotated[Path | None, typer.Option(help="Float twin, for PyTorch.")] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Interleaved rounds.")] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, alone on stdout.")] = False,
) -> None:
    """Measure frames/s and latency by batch size."""
    runners = {"mirror": _mirror(package)}
    if checkpoint is not None:
        runners["PyTorch eager FP32"] = _torch(checkpoint)
    results = [_measure(runners, batch, rounds) for batch in BATCHES]
    if as_json:
        typer.echo(json.dumps({"obtained": "measured", "threads": 1, "results": results}))
        return
    table = Table("batch", "engine", "latency_us", "frames/s", "PyTorch time / mirror time")
    for result in results:
        for name, latency_us in result["latency_us"].items():
            ratio = f"{latency_us / result['latency_us']['mirror']:.2f}"
            rate = f"{result['batch'] / latency_us * 1e6:.0f}"
            table.add_row(str(result["batch"]), name, f"{latency_us:.0f}", rate, ratio)
    Console().print(table)


def _measure(runners: dict[str, Runner], batch: int, rounds: int) -> dict[str, Any]:
    """Median time of one call in microseconds, engines taking turns."""
    calls = max(1, 64 // batch)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for run in runners.values():
        run(batch)
    for _ in range(rounds):
        for name, run in runners.items():
            started = time.perf_counter()
            for _ in range(calls):
                run(batch)
            times[name].append((time.perf_counter() - started) / calls)
    return {
        "batch": batch,
        "latency_us": {n: round(1e6 * float(np.median(t)), 1) for n, t in times.items()},
    }


def _mirror(folder: Path) -> Runner:
    package = load_package(folder)
    engine = open_engine("mirror", package.model)
    shape = (max(BATCHES), *package.model.config.input_shape)
    frames = np.random.default_rng(0).integers(-100, 101, shape).astype(np.int8)
    return lambda batch: engine.run(frames[:batch])


def _torch(checkpoint: Path) -> Runner:
    import torch  # noqa: PLC0415

    from emamba.train.checkpoint import load_checkpoint  # noqa: PLC0415

    torch.set_num_threads(1)
    network = load_checkpoint(checkpoint).network
    frames = torch.randn(max(BATCHES), *network.config.input_shape)

    def run(batch: int) -> object:
        with torch.inference_mode():
            return network(frames[:batch])

    return run


if __name__ == "__main__":
    typer.run(main)
