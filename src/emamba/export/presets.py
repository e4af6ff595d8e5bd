"""Choosing how far to fold: for a throughput, for a share of the board, or by a preset's name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from emamba.config import ModelConfig
from emamba.export.folding import PADDED, Folding, Shape, stage_shapes
from emamba.export.pipeline import streams
from emamba.export.resources import Resources, resources, stage_resources, total
from emamba.export.timing import (
    CLOCK_HZ,
    MIN_FIFO_DEPTH,
    fifo_depths,
    input_output_cycles,
    item_cycles,
    scan_recurrence_cycles,
)

__all__ = ["PRESETS", "PresetError", "choose", "preset"]

# Largest share of any resource of the ZCU102, DMA and interconnect included.
_MAX_SHARES = {"fast": 0.60, "small": 0.15}
# Tokens of so many bits lie in block RAM, of which there is more to spare than of logic.
_FIFO_BRAM_BITS = {"fast": None, "small": 256}
PRESETS = tuple(_MAX_SHARES)


class PresetError(ValueError):
    """A target that no folding meets, or a name that no preset has."""


def preset(name: str, config: ModelConfig) -> Folding:
    """`fast`: the fastest within 60 % of each resource of a ZCU102; `small`: within 15 %.

    Networks that exceed the share however they are folded get their smallest folding, FIFOs lying
    where their largest share of any resource is least.
    """
    if name not in _MAX_SHARES:
        raise PresetError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}; name one")
    found = _Chooser(config, _FIFO_BRAM_BITS[name]).within(_MAX_SHARES[name])
    return found or min(_smallest(config), key=lambda sized: sized[0])[1]


def _smallest(config: ModelConfig) -> Iterator[tuple[float, Folding]]:
    """The smallest folding for each place of FIFOs, after its largest share of a resource."""
    for bits in dict.fromkeys(_FIFO_BRAM_BITS.values()):
        chooser = _Chooser(config, bits)
        folding = chooser.smallest()
        yield max(chooser.total(folding).shares()), folding


def choose(
    config: ModelConfig,
    *,
    frames_per_s: float | None = None,
    max_share: float | None = None,
    clock_hz: float = CLOCK_HZ,
) -> Folding:
    """The cheapest folding for `frames_per_s`, or the fastest within `max_share` (0..1).

    Raises `PresetError` where there is none, or unless exactly one of the two is given.
    """
    chooser = _Chooser(config)
    if frames_per_s is not None and max_share is None:
        return _for_throughput(chooser, frames_per_s, clock_hz)
    if max_share is not None and frames_per_s is None:
        return _for_share(chooser, max_share)
    raise PresetError("exactly one of frames_per_s and max_share must be given; choose one")


def _for_share(chooser: _Chooser, max_share: float) -> Folding:
    found = chooser.within(max_share)
    if found is None:
        least = max(chooser.total(chooser.smallest()).shares())
        raise PresetError(
            f"max_share must be at least {least:.3f}, the smallest folding's, not "
            f"{max_share:g}; raise it or shrink the network"
        )
    return found


def _for_throughput(chooser: _Chooser, frames_per_s: float, clock_hz: float) -> Folding:
    fastest = chooser.intervals[0]
    if not 0 < frames_per_s <= clock_hz / fastest:
        raise PresetError(
            f"frames_per_s must be above 0 and at most {clock_hz / fastest:.0f}, {fastest} cycles "
            f"a frame at {clock_hz / 1e6:g} MHz, not {frames_per_s:g}; ask for fewer"
        )
    return chooser.for_interval(math.floor(clock_hz / frames_per_s))


class _Chooser:
    """The cheapest folding of one network for any frame interval, in cycles."""

    def __init__(self, config: ModelConfig, fifo_bram_bits: int | None = None) -> None:
        self._config = config
        self._fifo_bram_bits = fifo_bram_bits
        self._options = {
            stage: [
                (_frame_cycles(config, stage, lanes), _cost(config, stage, lanes), lanes)
                for lanes in _lanes(stage, shape)
            ]
            for stage, shape in stage_shapes(config).items()
        }
        fewest = max(min(options)[0] for options in self._options.values())
        floor = max(fewest, input_output_cycles(config))
        cycles = {option[0] for options in self._options.values() for option in options}
        self.intervals = sorted({floor} | {count for count in cycles if count > floor})

    def for_interval(self, interval_cycles: int) -> Folding:
        """Each stage as cheap as `interval_cycles` a frame permit."""
        lanes = {
            stage: min(
                (cost, lanes) for cycles, cost, lanes in options if cycles <= interval_cycles
            )
            for stage, options in self._options.items()
        }
        chosen = {stage: chosen for stage, (_, chosen) in lanes.items()}
        return Folding(self._config, chosen, self._fifo_bram_bits)

    def smallest(self) -> Folding:
        """Every stage at its cheapest."""
        return self.for_interval(self.intervals[-1])

    def within(self, max_share: float) -> Folding | None:
        """The fastest folding of which no resource exceeds `max_share`, or None."""
        shallow = {stream.name: MIN_FIFO_DEPTH for stream in streams(self._config)}
        for interval in self.intervals:
            folding = self.for_interval(interval)
            # FIFO depths are slow to find, so they come last.
            for depths in (shallow, None):
                if max(self.total(folding, depths).shares()) > max_share:
                    break
            else:
                return folding
        return None

    def total(self, folding: Folding, depths: Mapping[str, int] | None = None) -> Resources:
        """All resources, with FIFOs as deep as they need to be unless `depths` are given."""
        depths = depths or fifo_depths(self._config, folding)
        return total(resources(self._config, folding, depths))


def _lanes(stage: str, shape: Shape) -> Iterator[tuple[int, int]]:
    """Every (pe, simd) worth trying."""
    if stage not in PADDED:
        pes = _divisors(shape.rows)
    else:
        pes = sorted({math.ceil(shape.rows / folds) for folds in range(1, shape.rows + 1)})
    lanes = [(pe, simd) for pe in pes for simd in _divisors(shape.cols)]
    if stage == "selective_scan":
        # With fewer steps the loop would wait for its own states.
        longest = max(_steps(shape, *pair) for pair in lanes)
        fewest = min(scan_recurrence_cycles(), longest)
        lanes = [pair for pair in lanes if _steps(shape, *pair) >= fewest]
    return iter(lanes)


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _steps(shape: Shape, pe: int, simd: int) -> int:
    return math.ceil(shape.rows / pe) * (shape.cols // simd)


def _frame_cycles(config: ModelConfig, stage: str, lanes: tuple[int, int]) -> int:
    items = 1 if stage == "head_fc2" else config.n_tokens
    return items * item_cycles(stage, _steps(stage_shapes(config)[stage], *lanes))


def _cost(config: ModelConfig, stage: str, lanes: tuple[int, int]) -> float:
    """Shares of the board's four resources, added."""
    return sum(stage_resources(config, stage, *lanes).shares())
