"""The resource model: whole, never negative, and rising with what is built."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from emamba.export.folding import Folding
from emamba.export.pipeline import pipeline, streams
from emamba.export.resources import ZCU102, Resources, resources, stage_resources, total
from emamba.export.timing import MIN_FIFO_DEPTH
from emamba.package import find_packages, load_package
from random_foldings import foldings, wider

ROOT = Path(__file__).resolve().parents[2]
CONFIG = load_package(find_packages(ROOT / "models")[-1]).model.config


def _parts(folding: Folding, depth: int = MIN_FIFO_DEPTH) -> dict[str, Resources]:
    depths = {stream.name: depth for stream in streams(folding.config)}
    return resources(folding.config, folding, depths)


def test_multipliers_by_hand() -> None:
    """int8 multiply-adds are one DSP each; a lane of the scan has three wide products."""
    assert stage_resources(CONFIG, "in_proj", 5, 20).dsp == 2 * 5 * 20
    assert stage_resources(CONFIG, "conv1d", 5, 1).dsp == 5 * CONFIG.d_conv
    loading = 1
    assert stage_resources(CONFIG, "selective_scan", 5, 8).dsp == 3 * 5 * 8 + loading
    assert stage_resources(CONFIG, "gate", 5, 1).dsp == 5 + loading


def test_decays_fill_block_rams() -> None:
    """A byte for every delta, channel and state, and the exp table while loading."""
    decay_bits = CONFIG.d_inner * 128 * CONFIG.d_state * 8
    scan = stage_resources(CONFIG, "selective_scan", 5, 8)
    assert decay_bits / 36_864 <= scan.bram36 - 0.5 <= 1.5 * decay_bits / 36_864


def test_shares_are_of_the_board() -> None:
    assert ZCU102.shares() == (1, 1, 1, 1)
    assert (ZCU102 * 2).shares() == (2, 2, 2, 2)


@settings(max_examples=20, deadline=None)
@given(foldings())
def test_every_part_is_counted(folding: Folding) -> None:
    parts = _parts(folding)
    names = {process.name for process in pipeline(folding.config)}
    assert set(parts) == names | {"dispatch", "collect", "fifos", "shell", "system"}
    for part in parts.values():
        assert min(astuple(part)) >= 0
        assert 2 * part.bram36 % 1 == 0
    assert total(parts).lut == sum(part.lut for part in parts.values())


@settings(max_examples=20, deadline=None)
@given(foldings(), st.data())
def test_more_lanes_take_more_multipliers(folding: Folding, data: st.DataObject) -> None:
    stage = data.draw(st.sampled_from(sorted(folding.lanes)))
    fewer, more = (total(_parts(f)) for f in (folding, wider(folding, stage)))
    assert more.dsp >= fewer.dsp


@settings(max_examples=20, deadline=None)
@given(foldings(), st.integers(MIN_FIFO_DEPTH, 500))
def test_deeper_fifos_take_more_memory(folding: Folding, depth: int) -> None:
    shallow, deep = (_parts(folding, d)["fifos"] for d in (depth, depth + 1))
    assert deep.bram36 >= shallow.bram36
    assert sum(deep.shares()) > 0
