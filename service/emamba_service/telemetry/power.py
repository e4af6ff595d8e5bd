"""Finds and reads the INA226 of a board's rails under a sysfs root.

Two drivers serve the same chip, and the kernel's configuration decides which:

- `ina2xx-adc` with `iio-hwmon`: each hwmon device bears the name of its device tree node, so
  `ina226_u79` is designator u79.
- `ina2xx`: every hwmon device is called `ina226`. Its place on the I2C buses tells them apart.

A bus behind a multiplexer has no number of its own that would last, so a place is read from links:
`device` of the hwmon device is the chip, `.../ff020000.i2c/i2c-0/i2c-<n>/<n>-0040`; `mux_device` of
the bus `i2c-<n>` is the multiplexer, `.../i2c-0/0-0075`; and the one of the multiplexer's links
`channel-<c>` that leads back to the bus says which channel it is. Both PMBUS channels hold a chip
at 0x40, and a second multiplexer at 0x75 hangs on the other controller, hence all four.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from emamba_service.telemetry.rails import BOARDS, Board, Rail

__all__ = ["find_board", "find_rails", "read_power_w"]

_log = logging.getLogger(__name__)
_CLIENT = re.compile(r"\d+-([0-9a-f]{4})")
_CHANNEL = re.compile(r"channel-(\d+)")
_REGISTER_MAX = 0xFFFF

Place = tuple[str, int, int, int]  # controller, multiplexer's address, channel, chip's address


def find_board(sysfs: Path) -> Board | None:
    """The board that the device tree names; None where there is no tree or no rail map for it."""
    try:
        tree = (sysfs / "firmware/devicetree/base/compatible").read_bytes().split(b"\0")
    except OSError:
        return None
    known = (board for board in BOARDS.values() if board.compatible.encode() in tree)
    return next(known, None)


def find_rails(sysfs: Path, board: Board) -> dict[str, Path]:
    """`power1_input` of each rail that has a sensor, in the board's order.

    The paths are resolved, as hwmon numbers are given anew when a driver is loaded again. A sensor
    that the driver was told a wrong shunt for is left out with a warning: its power is wrong too.
    """
    by_name = {f"ina226_{rail.designator}": rail for rail in board.rails}
    by_place = {_place_of(rail): rail for rail in board.rails}
    found: dict[str, Path] = {}
    for link in (sysfs / "class/hwmon").glob("hwmon*"):
        hwmon = link.resolve()
        name = _word(hwmon / "name")
        if name == "ina226":
            rail = by_place.get(place) if (place := _place(hwmon)) else None
        else:
            rail = by_name.get(name)
        if rail and (hwmon / "power1_input").is_file() and _shunt_is_right(hwmon, rail):
            found[rail.name] = hwmon / "power1_input"
    return {rail.name: found[rail.name] for rail in board.rails if rail.name in found}


def read_power_w(path: Path, rail: Rail) -> float:
    """Power in W.

    Raises `OSError` where the sensor does not answer, `ValueError` where it gives what no INA226
    can: no integer, or microwatts outside of its register.
    """
    text = path.read_text("ascii")
    power_w = int(text) / 1e6
    most_w = _REGISTER_MAX * rail.power_step_w
    if not 0 <= power_w <= most_w:
        raise ValueError(f"power must be 0..{most_w:g} W, but is {power_w:g} W")
    return power_w


def _shunt_is_right(hwmon: Path, rail: Rail) -> bool:
    """Whether the driver computes with the rail's shunt; iio-hwmon does not tell, and passes."""
    told = _word(hwmon / "shunt_resistor")
    must = str(round(rail.shunt_ohms * 1e6))
    if told and told != must:
        _log.warning(
            "rail %s: shunt_resistor must be %s uOhm, but is %s; the rail is left out; "
            "write %s into %s or correct the device tree, then restart",
            *(rail.name, must, told, must, hwmon / "shunt_resistor"),
        )
        return False
    return True


def _place_of(rail: Rail) -> Place:
    bus = rail.bus
    return bus.controller, bus.mux_address, bus.channel, rail.address


def _place(hwmon: Path) -> Place | None:
    """Where the chip of a hwmon device is; None where it is not behind a multiplexer."""
    chip = (hwmon / "device").resolve()
    bus = chip.parent
    mux = (bus / "mux_device").resolve()
    chip_match, mux_match = _CLIENT.fullmatch(chip.name), _CLIENT.fullmatch(mux.name)
    channels = [
        int(match[1])
        for link in mux.glob("channel-*")
        if (match := _CHANNEL.fullmatch(link.name)) and link.resolve() == bus
    ]
    if not (chip_match and mux_match and channels):
        return None
    return bus.parent.parent.name, int(mux_match[1], 16), channels[0], int(chip_match[1], 16)


def _word(path: Path) -> str:
    """The text of a file in sysfs; empty where it cannot be read."""
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""
