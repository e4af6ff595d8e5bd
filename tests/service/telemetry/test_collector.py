"""What Prometheus gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from emamba_service.telemetry import Sampler, TelemetryCollector


def _exported(sampler: Sampler) -> list[str]:
    registry = CollectorRegistry()
    registry.register(TelemetryCollector(sampler))
    return generate_latest(registry).decode().splitlines()


def _series(sampler: Sampler, metric: str) -> list[str]:
    return [line for line in _exported(sampler) if line.startswith(f"{metric}{{")]


def test_all_series_of_a_board(iio_tree: Callable[..., Any], clock: Any) -> None:
    sampler = Sampler(iio_tree().root, 0.5, clock=clock)
    sampler.sample()
    clock.now_s += 0.5
    sampler.sample()
    power = _series(sampler, "emamba_rail_power_watts")
    assert len(power) == 18
    assert power[0] == 'emamba_rail_power_watts{group="pl_core",rail="VCCINT"} 2.812'
    assert power[2] == 'emamba_rail_power_watts{group="pl",rail="VCCAUX"} 0.512'
    assert power[13] == 'emamba_rail_power_watts{group="ps",rail="MGTRAVTT"} 0.0'
    assert _series(sampler, "emamba_group_power_watts") == [
        'emamba_group_power_watts{group="pl_core"} 2.899',
        'emamba_group_power_watts{group="pl"} 4.36',
        'emamba_group_power_watts{group="ps"} 2.311',
    ]
    energy = _series(sampler, "emamba_rail_energy_joules_total")
    assert len(energy) == 18
    assert energy[0] == 'emamba_rail_energy_joules_total{group="pl_core",rail="VCCINT"} 1.406'
    assert [line.split("}")[0] for line in _series(sampler, "emamba_temperature_celsius")] == [
        'emamba_temperature_celsius{sensor="ps"',
        'emamba_temperature_celsius{sensor="remote"',
        'emamba_temperature_celsius{sensor="pl"',
    ]


def test_helps_promise_rails_not_the_board(iio_tree: Callable[..., Any], clock: Any) -> None:
    sampler = Sampler(iio_tree().root, 0.5, clock=clock)
    sampler.sample()
    helps = [line for line in _exported(sampler) if line.startswith("# HELP")]
    assert len(helps) == 4
    assert all("rails measured" in line for line in helps if "temperature" not in line)
    assert any("not the board's power" in line for line in helps)


def test_missing_rails_have_no_series(iio_tree: Callable[..., Any], clock: Any) -> None:
    sampler = Sampler(iio_tree(without=("VCCINT",)).root, 0.5, clock=clock)
    sampler.sample()
    assert len(_series(sampler, "emamba_rail_power_watts")) == 17
    assert _series(sampler, "emamba_group_power_watts") == [
        'emamba_group_power_watts{group="ps"} 2.311'
    ]
    assert not [line for line in _exported(sampler) if "VCCINT" in line]


def test_nothing_before_the_first_sweep_nor_once_it_is_stale(
    iio_tree: Callable[..., Any], clock: Any
) -> None:
    sampler = Sampler(iio_tree().root, 0.2, clock=clock)
    assert _exported(sampler) == []
    sampler.sample()
    assert _exported(sampler) != []
    clock.now_s += 1.1
    assert _exported(sampler) == []


def test_nothing_on_a_laptop(laptop_tree: Any, clock: Any) -> None:
    sampler = Sampler(laptop_tree.root, 0.2, clock=clock)
    sampler.sample()
    assert _exported(sampler) == []


def test_the_registry_refuses_a_name_twice(laptop_tree: Any) -> None:
    registry = CollectorRegistry()
    registry.register(TelemetryCollector(Sampler(laptop_tree.root, 0.2)))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Gauge("emamba_temperature_celsius", "Another.", registry=registry)
