"""Machines with sensors, as their sysfs shows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import sysfs_trees
from clocks import Clock
from sysfs_trees import BOARD, Tree, sensors


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def iio_tree(tmp_path: Path) -> Callable[..., Tree]:
    """A ZCU102 whose kernel has ina2xx-adc and iio-hwmon, and AMD's AMS driver."""
    return partial(sysfs_trees.iio_tree, tmp_path / "sys")


@pytest.fixture
def ina226_tree(tmp_path: Path) -> Callable[..., Tree]:
    """A ZCU102 whose kernel has ina2xx and mainline's AMS driver, with a card on an FMC slot."""

    def build(without: tuple[str, ...] = ()) -> Tree:
        tree = Tree(tmp_path / "sys")
        tree.device_tree()
        # The card: a chip at the address of VCCINT, channel 1 of the other multiplexer at 0x75.
        tree.ina226(f"{tree.mux_channel(1, 1, 2)}/2-0040", 2000, 9999000)
        tree.ina226(f"{tree.mux_channel(0, 1, 3, '0071')}/3-0040", 2000, 7777000)
        buses = {1: tree.mux_channel(0, 1, 5), 0: tree.mux_channel(0, 0, 11)}
        numbers = {1: 5, 0: 11}
        tree.ina226("devices/platform/axi/ff020000.i2c/i2c-0/0-0041", 5000, 8888000)
        for _, rail, channel, address, shunt_uohm, power_uw in sensors(without):
            chip = f"{buses[channel]}/{numbers[channel]}-{address}"
            tree.power[rail] = tree.ina226(chip, shunt_uohm, power_uw) / "power1_input"
        files = {"name": "xilinx-ams"}
        for number, (label, sensor) in enumerate(
            (("Temp_LPD", "ps"), ("Temp_FPD", "remote"), ("Temp_PL", "pl")), start=7
        ):
            files[f"in_temp{number}_label"] = label
            files[f"in_temp{number}_raw"] = BOARD["temperature_raw"][sensor]
            files[f"in_temp{number}_scale"] = BOARD["temperature_scale"]
            files[f"in_temp{number}_offset"] = BOARD["temperature_offset"]
        tree.write("bus/iio/devices/iio:device3", files)
        return tree

    return build


@pytest.fixture
def laptop_tree(tmp_path: Path) -> Tree:
    """A machine without a device tree, with sensors of its own."""
    tree = Tree(tmp_path / "laptop")
    tree.hwmon(
        "devices/platform/coretemp.0",
        {"name": "coretemp", "temp1_input": 51000, "temp1_label": "Package id 0"},
    )
    tree.hwmon("devices/virtual/thermal/thermal_zone0", {"name": "acpitz", "temp1_input": 45000})
    tree.write("bus/iio/devices/iio:device0", {"name": "acpi-als", "in_illuminance_raw": 120})
    return tree
