"""Modelled cycles: pipeline depths, and an event model of the streaming top, token by token.

The component latencies below are assumptions for 200 MHz on UltraScale+ (docs/kernel-model.md);
given them, `simulate` equals the C simulation (`hls/host/simulation.hpp`) cycle by cycle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from emamba.config import ModelConfig
from emamba.export.folding import Folding
from emamba.export.interface import INTERFACE
from emamba.export.pipeline import Process, pipeline, streams

__all__ = [
    "CLOCK_HZ",
    "MIN_FIFO_DEPTH",
    "Timing",
    "bottleneck_cycles",
    "fifo_depths",
    "frame_words",
    "input_output_cycles",
    "item_cycles",
    "output_words",
    "pipeline_depths",
    "scan_recurrence_cycles",
    "simulate",
]

CLOCK_HZ = float(INTERFACE.clock_hz)

# Cycles of 5 ns; reasons in docs/kernel-model.md.
_OPERANDS = 2  # step counter to weight out of memory, token register to lane
_MULTIPLY = 3  # registers A/B, M and P of a DSP48E2
_WIDE_MULTIPLY = 4  # two slices in cascade
_ADD = 1
_LEVELS_A_CYCLE = 2  # of an adder tree
_REQUANTISE = 2  # two shifters, rounding, saturation, of 32 bits
_REQUANTISE_WIDE = 3  # the same of 48 bits
_SATURATE = 1
_TABLE = 2  # block memory with its output register
_NORMALISE = 2  # leading zeros and shift of the range
_DIVIDE = 36  # stages of Vitis HLS' pipelined divider of 32 bits
_STATE_ACCESS = 1  # reading, and writing, a state
_CHOOSE = 1  # a multiplexer
_WRITE = 1

# A FIFO of depth 2 passes one item a cycle, one of depth 1 every other.
MIN_FIFO_DEPTH = 2


def pipeline_depths(config: ModelConfig, folding: Folding) -> dict[str, int]:
    """Modelled cycles from a step's operands to its result, by stage, `dispatch` and `collect`."""
    matrices = ("patch_embed", "in_proj", "x_proj", "dt_proj", "out_proj", "head_fc1", "head_fc2")
    depths = {stage: _matvec_depth(folding.simd(stage)) for stage in matrices}
    depths["head_fc1"] += _REQUANTISE
    depths |= {
        "dispatch": _CHOOSE + _WRITE,
        "patches": _CHOOSE + _WRITE,
        "range_norm": _range_norm_depth(config.d_model),
        "conv1d": _OPERANDS + _MULTIPLY + _tree(config.d_conv + 1) + _REQUANTISE + _WRITE,
        "selective_scan": _scan_depth(folding.simd("selective_scan")),
        "gate": _OPERANDS + _TABLE + _MULTIPLY + _REQUANTISE + _WRITE,
        "collect": _CHOOSE + _WRITE,
    }
    return depths


def scan_recurrence_cycles() -> int:
    """Cycles from reading a state to where its successor can be read.

    Steps of one token in the scan must not be fewer, or iterations wait for each other.
    """
    return _STATE_ACCESS + _MULTIPLY + _ADD + 2 * _SATURATE + _STATE_ACCESS


def _tree(operands: int) -> int:
    """Cycles of a tree of adders."""
    return math.ceil((operands - 1).bit_length() / _LEVELS_A_CYCLE)


def _matvec_depth(simd: int) -> int:
    return _OPERANDS + _MULTIPLY + _tree(simd) + _ADD + _REQUANTISE + _WRITE


def _range_norm_depth(d_model: int) -> int:
    """The path through max - min and the division; that through the mean is shorter."""
    extremes = (d_model - 1).bit_length()  # a comparison and a choice a cycle
    unit = _NORMALISE + _DIVIDE + _WIDE_MULTIPLY + _ADD
    return _OPERANDS + extremes + _ADD + unit + _MULTIPLY + _ADD + _REQUANTISE + _WRITE


def _scan_depth(simd: int) -> int:
    input_path = 2 * _MULTIPLY + _REQUANTISE  # delta u, times B
    state_path = _TABLE + _MULTIPLY  # decay times h
    h_wide = _OPERANDS + max(input_path, state_path) + _ADD + _SATURATE
    return h_wide + _MULTIPLY + _tree(simd) + _ADD + _REQUANTISE_WIDE + _WRITE


def item_cycles(stage: str, steps: int) -> int:
    """Cycles that one token (one frame for `head_fc2`) of `steps` steps takes in a stage's loop.

    One a step, except that a scan of too few steps repeats only as fast as its recurrence.
    """
    if stage != "selective_scan":
        return steps
    return steps * math.ceil(scan_recurrence_cycles() / steps)


def frame_words(config: ModelConfig) -> int:
    """64-bit words of one frame."""
    return math.ceil(math.prod(config.input_shape) / 8)


def output_words(config: ModelConfig) -> int:
    """64-bit words of one answer."""
    return math.ceil(config.n_outputs / 4)


def _frame_cycles(config: ModelConfig, folding: Folding) -> dict[str, int]:
    """Cycles that one frame occupies each process."""
    cycles = {"dispatch": frame_words(config), "patches": frame_words(config) + config.n_tokens}
    for process in pipeline(config)[1:]:
        items = 1 if process.stage == "head_fc2" else config.n_tokens
        cycles[process.name] = items * item_cycles(process.stage, folding.steps(process.stage))
    return cycles | {"collect": output_words(config)}


def input_output_cycles(config: ModelConfig) -> int:
    """The frame interval that `patches` and `collect` allow, however the stages are folded."""
    return max(frame_words(config) + config.n_tokens, output_words(config))


def bottleneck_cycles(config: ModelConfig, folding: Folding) -> int:
    """The frame interval that the slowest process allows, in cycles."""
    return max(_frame_cycles(config, folding).values())


@dataclass(frozen=True)
class Timing:
    """What a run of the model gives; everything in cycles.

    `interval_cycles` lies between the last words of the last two frames' answers,
    `latency_cycles` between the first word in and the last out of the first frame. By process:
    `stage_cycles`, occupied per frame. By stream: `peaks`, items waiting at once, and
    `write_cycles`, when each was written (`out`: the answer's words).
    """

    interval_cycles: int
    latency_cycles: int
    stage_cycles: dict[str, int]
    peaks: dict[str, int]
    write_cycles: dict[str, list[int]]

    def frames_per_s(self, clock_hz: float = CLOCK_HZ) -> float:
        """Throughput in steady state."""
        return clock_hz / self.interval_cycles


def simulate(
    config: ModelConfig, folding: Folding, fifo_depths: Mapping[str, int] | None, frames: int = 8
) -> Timing:
    """Run `frames` frames through FIFOs of `fifo_depths` tokens, or unbounded ones.

    Raises `RuntimeError` for depths with which the top would deadlock.
    """
    fifos = _Top(config, folding, fifo_depths, frames).run()
    ends = fifos["out"].writes[output_words(config) - 1 :: output_words(config)]
    return Timing(
        interval_cycles=ends[-1] - ends[-2] if frames > 1 else bottleneck_cycles(config, folding),
        latency_cycles=ends[0] - fifos["in"].reads[0],
        stage_cycles=_frame_cycles(config, folding),
        peaks={name: fifo.peak() for name, fifo in fifos.items() if name not in ("in", "out")},
        write_cycles={name: fifo.writes for name, fifo in fifos.items() if name != "in"},
    )


def fifo_depths(config: ModelConfig, folding: Folding) -> dict[str, int]:
    """FIFO depths in tokens, by stream, that cost no throughput; at least `MIN_FIFO_DEPTH`.

    They suffice for the schedule in which every token stage keeps the slowest one's pace. With
    them a run, which starts everything as early as it can, is never behind that schedule.
    """
    interval = bottleneck_cycles(config, folding)
    latency = simulate(config, folding, None, 1).latency_cycles
    frames = latency // interval + 2
    fifos = _Top(config, folding, None, frames, paced=True).run()
    return {s.name: fifos[s.name].needed_depth() for s in streams(config)}


@dataclass
class _Fifo:
    """The cycles of every write and read of one stream."""

    depth: int | None = None
    writes: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return len(self.reads) == len(self.writes)

    @property
    def is_full(self) -> bool:
        return self.depth is not None and len(self.writes) - len(self.reads) >= self.depth

    @property
    def slot_free_at(self) -> int:
        """The cycle from which the next write's slot is free."""
        if self.depth is None or len(self.writes) < self.depth:
            return 0
        return self.reads[len(self.writes) - self.depth] + 1

    def peak(self) -> int:
        """Most items waiting at once; a read in the cycle of a write comes first."""
        peak = gone = 0
        for i, cycle in enumerate(self.writes):
            while gone < i and self.reads[gone] <= cycle:
                gone += 1
            peak = max(peak, i + 1 - gone)
        return peak

    def needed_depth(self) -> int:
        """The least depth at which no write would have waited for its slot."""
        needed, gone = MIN_FIFO_DEPTH, 0
        for i, cycle in enumerate(self.writes):
            while gone < i and self.reads[gone] < cycle:
                gone += 1
            needed = max(needed, i + 1 - gone)
        return needed


@dataclass
class _Clock:
    """One process's clock; generators yield where the process waits for another."""

    now: int
    pipeline_depth: int

    def read(self, fifo: _Fifo) -> Iterator[None]:
        while fifo.is_empty:
            yield
        self.now = max(self.now, fifo.writes[len(fifo.reads)] + 1)
        fifo.reads.append(self.now)

    def write(self, fifo: _Fifo) -> Iterator[None]:
        while fifo.is_full:
            yield
        self.now = max(self.now, fifo.slot_free_at - self.pipeline_depth)
        fifo.writes.append(self.now + self.pipeline_depth)


_ENDED = object()


class _Top:
    """The processes of the top and their FIFOs, for one run."""

    def __init__(
        self,
        config: ModelConfig,
        folding: Folding,
        depths: Mapping[str, int] | None,
        frames: int,
        *,
        paced: bool = False,
    ) -> None:
        self._config, self._folding, self._frames = config, folding, frames
        self._pipeline_depths = pipeline_depths(config, folding)
        names = [stream.name for stream in streams(config)]
        self.fifos = {name: _Fifo(None if depths is None else depths[name]) for name in names}
        self.fifos |= {"in": _Fifo(), "out": _Fifo()}
        self._interval = self._pace = 0
        if paced:
            self._interval = bottleneck_cycles(config, folding)
            stages = {p.stage for p in pipeline(config)} - {"patches", "head_fc2"}
            self._pace = max(item_cycles(stage, folding.steps(stage)) for stage in stages)

    def run(self) -> dict[str, _Fifo]:
        """Every process to its end."""
        running = list(self._processes())
        while running:
            before = self._moves()
            running = [process for process in running if next(process, _ENDED) is not _ENDED]
            if running and self._moves() == before:
                raise RuntimeError(
                    "FIFO depths must allow progress, but every process waits; deepen them"
                )
        return self.fifos

    def _moves(self) -> int:
        return sum(len(fifo.writes) + len(fifo.reads) for fifo in self.fifos.values())

    def _processes(self) -> Iterator[Iterator[object]]:
        # Each process starts when the call's header reaches it along the chain.
        yield self._dispatch(self._clock("dispatch", 1))
        processes = pipeline(self._config)
        for position, process in enumerate(processes):
            clock = self._clock(process.stage, 2 + position)
            if process.stage == "patches":
                yield self._patches(clock)
            else:
                yield self._stage(clock, process)
        yield self._collect(self._clock("collect", 2 + len(processes)))

    def _clock(self, stage: str, now: int) -> _Clock:
        return _Clock(now, self._pipeline_depths[stage])

    def _dispatch(self, clock: _Clock) -> Iterator[None]:
        for frame in range(self._frames):
            clock.now = max(clock.now, frame * self._interval)
            for _ in range(frame_words(self._config)):
                clock.now += 1
                self.fifos["in"].writes.append(0)
                yield from clock.read(self.fifos["in"])
                yield from clock.write(self.fifos["frames"])

    def _patches(self, clock: _Clock) -> Iterator[None]:
        for _ in range(self._frames):
            for _ in range(frame_words(self._config)):
                clock.now += 1
                yield from clock.read(self.fifos["frames"])
            for _ in range(self._config.n_tokens):
                clock.now += 1
                yield from clock.write(self.fifos["tokens"])

    def _stage(self, clock: _Clock, process: Process) -> Iterator[None]:
        """A loop of `item_cycles` iterations an item: it reads in the first, writes in the last."""
        tokens = 1 if process.stage == "head_fc2" else self._config.n_tokens
        per_answer = self._config.n_tokens if process.stage == "head_fc1" else 1
        pace = 0 if process.stage == "head_fc2" else self._pace
        cycles = item_cycles(process.stage, self._folding.steps(process.stage))
        early = process.writes[1:] if process.stage == "range_norm" else ()
        late = process.writes[: len(process.writes) - len(early)]
        start = clock.now + 1 - pace
        for item in range(1, self._frames * tokens + 1):
            clock.now = start = max(clock.now + 1, start + pace)
            for stream in process.reads:
                yield from clock.read(self.fifos[stream.name])
            for stream in early:
                yield from clock.write(self.fifos[stream.name])
            clock.now += cycles - 1
            if item % per_answer == 0:
                for stream in late:
                    yield from clock.write(self.fifos[stream.name])

    def _collect(self, clock: _Clock) -> Iterator[None]:
        for word in range(self._frames * output_words(self._config)):
            clock.now += 1
            if word % output_words(self._config) == 0:
                yield from clock.read(self.fifos["output"])
            yield from clock.write(self.fifos["out"])
