"""The chooser: its presets' bars, its errors, and any network of the family."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emamba.config import ModelConfig
from emamba.export.folding import Folding
from emamba.export.presets import PRESETS, PresetError, choose, preset
from emamba.export.resources import Resources, resources, total
from emamba.export.timing import (
    CLOCK_HZ,
    Timing,
    bottleneck_cycles,
    fifo_depths,
    scan_recurrence_cycles,
    simulate,
)
from emamba.package import find_packages, load_package
from random_configs import configs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = load_package(find_packages(ROOT / "models")[-1]).model.config


def _modelled(folding: Folding) -> tuple[Timing, dict[str, Resources]]:
    depths = fifo_depths(folding.config, folding)
    timing = simulate(folding.config, folding, depths)
    return timing, resources(folding.config, folding, depths)


def test_fast_meets_its_bars() -> None:
    timing, parts = _modelled(preset("fast", CONFIG))
    assert timing.interval_cycles <= 128
    assert timing.latency_cycles <= 1_200
    assert max(total(parts).shares()) <= 0.60


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("folder", find_packages(ROOT / "models"), ids=lambda f: f.parent.name)
def test_every_shipped_network_fits_the_board(folder: Path, name: str) -> None:
    """In `fast` within its 60 %, in `small` as small as it can be."""
    _, parts = _modelled(preset(name, load_package(folder).model.config))
    assert max(total(parts).shares()) <= 0.60


def test_small_meets_its_bars() -> None:
    timing, parts = _modelled(preset("small", CONFIG))
    assert timing.interval_cycles <= 12_800
    assert max(total(parts).shares()) <= 0.15


def test_the_page_has_the_models_numbers() -> None:
    page = (ROOT / "docs" / "kernel-model.md").read_text()
    for line in _result_lines() + _part_lines():
        assert line in page, f"docs/kernel-model.md must have the line {line}"


def _result_lines() -> list[str]:
    lines = []
    for name in PRESETS:
        timing, parts = _modelled(preset(name, CONFIG))
        whole = total(parts)
        counts = (f"{whole.dsp:,}", f"{whole.lut:,}", f"{whole.ff:,}", f"{whole.bram36:g}")
        cells = [f"`{name}`", f"{timing.interval_cycles:,}", f"{timing.frames_per_s():,.0f}"]
        cells += [f"{timing.latency_cycles:,}", f"{timing.latency_cycles / CLOCK_HZ * 1e6:.1f}"]
        cells += [
            f"{count} ({share:.1%})" for count, share in zip(counts, whole.shares(), strict=True)
        ]
        lines.append(_row(cells))
    return lines


def _part_lines() -> list[str]:
    """One line a part; the blocks are alike."""
    chosen = [preset(name, CONFIG) for name in PRESETS]
    modelled = [_modelled(folding)[1] for folding in chosen]
    lines = []
    for part in modelled[0]:
        if not part.endswith("_1"):
            cells = [_cells(part, *pair) for pair in zip(chosen, modelled, strict=True)]
            lines.append(_row([f"`{part.removesuffix('_0')}`", *cells[0], *cells[1]]))
    return lines


def _cells(part: str, folding: Folding, parts: dict[str, Resources]) -> list[str]:
    stage, used = part.removesuffix("_0"), parts[part]
    lanes = ""
    if stage in folding.lanes:
        pe, simd = folding.lanes[stage]
        lanes = f"{pe} x {simd}, {folding.steps(stage)}"
    return [lanes, str(used.dsp), f"{used.lut:,}", f"{used.bram36:g}"]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


@settings(max_examples=20, deadline=None)
@given(configs(), st.sampled_from(PRESETS))
def test_presets_suit_any_network(config: ModelConfig, name: str) -> None:
    folding = preset(name, config)
    depths = fifo_depths(config, folding)
    timing = simulate(config, folding, depths)
    assert timing.interval_cycles == bottleneck_cycles(config, folding)
    scan_steps = folding.steps("selective_scan")
    assert scan_steps >= min(scan_recurrence_cycles(), config.d_inner * config.d_state)


@settings(max_examples=20, deadline=None)
@given(configs())
def test_fast_is_not_slower_than_small(config: ModelConfig) -> None:
    fast, small = (bottleneck_cycles(config, preset(name, config)) for name in PRESETS)
    assert fast <= small


@settings(max_examples=20, deadline=None)
@given(configs(), st.floats(0.01, 1))
def test_a_throughput_is_met(config: ModelConfig, part: float) -> None:
    fastest = bottleneck_cycles(config, choose(config, max_share=1_000))
    frames_per_s = part * CLOCK_HZ / fastest
    folding = choose(config, frames_per_s=frames_per_s)
    assert bottleneck_cycles(config, folding) <= CLOCK_HZ / frames_per_s
    with pytest.raises(PresetError, match="ask for fewer"):
        choose(config, frames_per_s=1.01 * CLOCK_HZ / fastest)


@settings(max_examples=20, deadline=None)
@given(configs(), st.floats(1, 3))
def test_a_share_is_kept(config: ModelConfig, max_share: float) -> None:
    _, parts = _modelled(choose(config, max_share=max_share))
    assert max(total(parts).shares()) <= max_share


def test_what_cannot_fit_is_refused() -> None:
    with pytest.raises(PresetError, match=r"not 0\.1; raise it or shrink the network"):
        choose(CONFIG, max_share=0.1)


def test_exactly_one_target_must_be_given() -> None:
    with pytest.raises(PresetError, match="exactly one of frames_per_s and max_share"):
        choose(CONFIG)
    with pytest.raises(PresetError, match="exactly one of frames_per_s and max_share"):
        choose(CONFIG, frames_per_s=1, max_share=1)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(PresetError, match="must be one of fast, small, not 'huge'"):
        preset("huge", CONFIG)
