"""The event model of the top: equal to the C simulation, and true to what it promises."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csim import Kernel, compile_kernel, compiler
from emamba.config import ModelConfig
from emamba.export.folding import Folding, stage_shapes
from emamba.export.pipeline import streams
from emamba.export.presets import preset
from emamba.export.timing import (
    MIN_FIFO_DEPTH,
    bottleneck_cycles,
    fifo_depths,
    item_cycles,
    pipeline_depths,
    scan_recurrence_cycles,
    simulate,
)
from emamba.package import find_packages, load_package
from random_foldings import foldings, wider

ROOT = Path(__file__).resolve().parents[2]
MODEL = load_package(find_packages(ROOT / "models")[-1]).model
CONFIG = MODEL.config
FRAMES = 6
DepthsOf = Callable[[ModelConfig, Folding], dict[str, int]]


class TimedKernel(Kernel):
    """A C simulation that also says when its streams were written."""

    def write_cycles(self, stream: str) -> list[int]:
        """The cycle of every write in the last watched run."""
        cycles = np.zeros(100_000, np.int64)
        count = self._library.emamba_csim_cycles(
            stream.encode(), ctypes.c_void_p(cycles.ctypes.data), ctypes.c_long(len(cycles))
        )
        return [int(cycle) for cycle in cycles[:count]]


def _two_each(config: ModelConfig, folding: Folding) -> dict[str, int]:
    return {stream.name: MIN_FIFO_DEPTH for stream in streams(config)}


@pytest.mark.skipif(compiler() is None, reason="the C simulation needs a C++ compiler")
@pytest.mark.parametrize(
    ("name", "depths_of"),
    [("fast", fifo_depths), ("fast", _two_each), ("small", fifo_depths)],
    ids=["fast", "fast with shallow FIFOs", "small"],
)
def test_it_equals_the_c_simulation(
    name: str, depths_of: DepthsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every write's cycle and every FIFO's peak, with bounded and with unbounded FIFOs."""
    folding = preset(name, CONFIG)
    depths = depths_of(CONFIG, folding)
    monkeypatch.setattr("emamba.export.fifo_depths", depths_of)
    kernel = TimedKernel(compile_kernel(MODEL, folding), CONFIG)
    for bounded in (True, False):
        kernel.infer(
            np.zeros((FRAMES, *CONFIG.input_shape), np.int8), bounded=bounded, watched=True
        )
        timing = simulate(CONFIG, folding, depths if bounded else None, FRAMES)
        for stream, cycles in timing.write_cycles.items():
            written = kernel.write_cycles(stream)
            # The status word is no part of an answer.
            assert written[: len(cycles)] == cycles, stream
            assert len(written) == len(cycles) + (stream == "out"), stream
        assert {stream: kernel.peak(stream) for stream in timing.peaks} == timing.peaks


def test_every_process_has_a_pipeline_depth() -> None:
    depths = pipeline_depths(CONFIG, preset("fast", CONFIG))
    assert set(depths) == {"dispatch", "patches", *stage_shapes(CONFIG), "collect"}
    assert min(depths.values()) >= 1


@settings(max_examples=20, deadline=None)
@given(foldings())
def test_fifos_cost_neither_throughput_nor_latency(folding: Folding) -> None:
    config = folding.config
    depths = fifo_depths(config, folding)
    assert min(depths.values()) >= MIN_FIFO_DEPTH
    bounded = simulate(config, folding, depths)
    assert bounded.interval_cycles == bottleneck_cycles(config, folding)
    assert bounded.latency_cycles == simulate(config, folding, None, 1).latency_cycles
    assert all(bounded.peaks[stream] <= depth for stream, depth in depths.items())


@settings(max_examples=20, deadline=None)
@given(foldings(), st.data())
def test_more_lanes_never_cost_throughput(folding: Folding, data: st.DataObject) -> None:
    """Of latency they may: a wider adder is deeper, and a short scan waits for its states."""
    stage = data.draw(st.sampled_from(sorted(folding.lanes)))
    more = wider(folding, stage)
    assert bottleneck_cycles(more.config, more) <= bottleneck_cycles(folding.config, folding)


def test_a_short_scan_waits_for_its_states() -> None:
    recurrence = scan_recurrence_cycles()
    assert item_cycles("selective_scan", recurrence) == recurrence
    assert item_cycles("selective_scan", 1) == recurrence
    assert item_cycles("gate", 1) == 1


def test_a_deadlock_is_an_error() -> None:
    folding = preset("fast", CONFIG)
    depths = fifo_depths(CONFIG, folding) | {"skip_0": 0}
    with pytest.raises(RuntimeError, match="FIFO depths must allow progress"):
        simulate(CONFIG, folding, depths, 1)
