"""Minutes at a share of what the service can answer, with a fault of its engine in each.

    .venv/bin/python -m bench.serving.soak [--json FILE]
    service/scripts/with_pynq.sh python3 "" python -m bench.serving.soak --engine emulator

The engine's process is killed and stopped in turns; an emulated board has faults of its own
besides, at a rate. Every answer is compared bit for bit. Memory is proportional (PSS), read every
second; its growth is that of the medians from after the warm-up to the end.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated, Any

import typer
from bench.serving.cases import frames, oip_binary
from bench.serving.load import Load, Outcome, run, start
from bench.serving.machine import machine
from bench.serving.processes import Server, product, running

__all__ = ["Sample", "growth_bytes", "main", "soak"]

FAULTS = "output_flip:0.0001,dma_hang:0.00005,dma_error:0.00005,interrupt_lost:0.0001"
# Shorter than a board's own limits of several transfers would not do.
ENGINE_TIMEOUT_S = 2.0
CAPACITY_S = 5.0
SAMPLE_S = 1.0
# Of the time, before which growth is start-up, and at whose end it is taken.
WARM_UP, END = 0.2, 0.1


@dataclass(frozen=True)
class Sample:
    """Bytes of the server's processes at a time since the start."""

    at_s: float
    memory: dict[str, int]


@dataclass(frozen=True)
class _Soaked:
    outcome: Outcome
    samples: list[Sample]
    faults: list[str]


def main(
    seconds: Annotated[float, typer.Option(min=5, help="Length of the soak.")] = 600.0,
    share: Annotated[float, typer.Option(min=0.05, max=1, help="Of the capacity.")] = 0.8,
    engine: Annotated[str, typer.Option(help="native, mirror or emulator.")] = "native",
    faults: Annotated[str, typer.Option(help="An emulator's, kind:rate.")] = FAULTS,
    every: Annotated[float, typer.Option(min=1, help="Seconds from fault to fault.")] = 60.0,
    connections: Annotated[int, typer.Option(min=1, max=1024)] = 64,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it there too.")] = None,
) -> None:
    """Soak the service; exit 1 if an answer was wrong, or there was none."""
    report = soak(seconds, share, engine, faults, every, connections)
    text = json.dumps(report, indent=1)
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(text + "\n")
    if any(report[what] for what in ("wrong", "hung", "lost", "given_up")):
        raise typer.Exit(1)


def soak(
    seconds: float, share: float, engine: str, faults: str, every_s: float, connections: int
) -> dict[str, Any]:
    """The figures of one soak."""
    case = oip_binary(frames())
    options = ["--engine", engine, "--engine-timeout-s", str(ENGINE_TIMEOUT_S)]
    options += ["--emulator-faults", faults] if engine == "emulator" else []
    with running(f"service, engine {engine}", product(*options)) as server:
        closed = Load(server.port, case, connections, CAPACITY_S)
        capacity_per_s = run(closed).good_per_s
        load = Load(server.port, case, connections, seconds, rate_per_s=share * capacity_per_s)
        soaked = _soaked(server, load, every_s)
        ended_well = server.process.poll() is None
    return {
        "engine": engine,
        "settings": " ".join(options),
        "machine": machine(),
        "capacity_per_s": round(capacity_per_s, 1),
        "share": share,
        "offered_per_s": round(share * capacity_per_s, 1),
        "service_lived": ended_well,
        "faults": soaked.faults,
        "memory_growth_bytes": growth_bytes(soaked.samples, seconds),
        "memory_bytes": soaked.samples[-1].memory if soaked.samples else {},
        **soaked.outcome.to_json(),
    }


def growth_bytes(samples: list[Sample], seconds: float) -> dict[str, int]:
    """How much more each kind of memory, and main's and children's PSS together, has become."""
    first = [one for one in samples if WARM_UP <= one.at_s / seconds < WARM_UP + END]
    last = [one for one in samples if one.at_s / seconds >= 1 - END]
    if not first or not last:
        return {}

    def median(chosen: list[Sample], *keys: str) -> float:
        return statistics.median(sum(one.memory[key] for key in keys) for one in chosen)

    kinds = [(key,) for key in samples[0].memory]
    growth = {keys[0]: round(median(last, *keys) - median(first, *keys)) for keys in kinds}
    both = ("main_pss", "children_pss")
    return growth | {"pss": round(median(last, *both) - median(first, *both))}


def _soaked(server: Server, load: Load, every_s: float) -> _Soaked:
    loading = start(load)
    begun_s = time.monotonic()
    samples: list[Sample] = []
    struck: list[str] = []
    kinds = cycle((signal.SIGKILL, signal.SIGSTOP))
    next_fault_s = every_s / 2
    while not loading.done():
        at_s = time.monotonic() - begun_s
        if next_fault_s <= at_s < load.seconds:
            struck.append(f"{at_s:.1f} s: {_strike(server, next(kinds))}")
            next_fault_s += every_s
        samples.append(Sample(at_s, server.memory_bytes()))
        time.sleep(SAMPLE_S)
    # Half a minute of waiting for the last answers is not part of it.
    inside = [one for one in samples if one.at_s <= load.seconds]
    return _Soaked(loading.result(), inside, struck)


def _strike(server: Server, number: signal.Signals) -> str:
    """Send `number` to the engine's process."""
    children = server.children
    if not children:
        return "no engine process to strike"
    os.kill(children[-1], number)
    return f"{number.name} to the engine's process"


if __name__ == "__main__":
    typer.run(main)
