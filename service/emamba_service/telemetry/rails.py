"""The power rails that have a sensor, by board.

Of the ZCU102: designators, addresses and shunts are those of Linux's `zynqmp-zcu102-revA.dts`,
which rev 1.0 builds on; the rails behind the designators are those of the board's user guide
(UG1182). Nothing here was compared with a board. A rail map holds for its board only: others have
sensors of the same designators at the same addresses, on other rails.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

__all__ = ["BOARDS", "GROUPS", "ZCU102", "Board", "Bus", "Group", "Rail"]

Group = Literal["pl_core", "pl", "ps"]

# A rail carries the narrowest group that it is in; `pl` as a sum includes `pl_core`.
GROUPS: dict[Group, tuple[Group, ...]] = {
    "pl_core": ("pl_core",),
    "pl": ("pl_core", "pl"),
    "ps": ("ps",),
}

# INA226 data sheet: 2.5 uV per step of the shunt's voltage, 25 steps of current per step of power,
# with the calibration that Linux sets since 4.16.
_SHUNT_STEP_V = 2.5e-6
_POWER_STEPS = 25


@dataclass(frozen=True)
class Bus:
    """One channel of an I2C multiplexer: `controller` is the device's name in sysfs."""

    name: str
    controller: str
    mux_address: int
    channel: int


@dataclass(frozen=True)
class Rail:
    """One rail and its INA226."""

    name: str
    designator: str
    bus: Bus
    address: int
    shunt_ohms: float
    group: Group

    @property
    def power_step_w(self) -> float:
        """What one step of the sensor's power register means."""
        return _POWER_STEPS * _SHUNT_STEP_V / self.shunt_ohms


@dataclass(frozen=True)
class Board:
    """A board; `compatible` is how its device tree names it."""

    name: str
    compatible: str
    rails: tuple[Rail, ...]

    def group_rails(self, group: Group) -> tuple[Rail, ...]:
        """The rails whose sum is the power of `group`."""
        return tuple(rail for rail in self.rails if rail.group in GROUPS[group])

    def quantisation_w(self, group: Group) -> float:
        """Standard deviation of the sum's rounding: that of a uniform error of one step a rail."""
        return math.sqrt(sum(rail.power_step_w**2 for rail in self.group_rails(group)) / 12)


_PS = Bus("PS_PMBUS", "ff020000.i2c", 0x75, 0)
_PL = Bus("PL_PMBUS", "ff020000.i2c", 0x75, 1)

ZCU102 = Board(
    "zcu102",
    "xlnx,zynqmp-zcu102",
    (
        Rail("VCCINT", "u79", _PL, 0x40, 0.002, "pl_core"),
        Rail("VCCBRAM", "u81", _PL, 0x41, 0.005, "pl_core"),
        Rail("VCCAUX", "u80", _PL, 0x42, 0.005, "pl"),
        Rail("VCC1V2", "u84", _PL, 0x43, 0.005, "pl"),
        Rail("VCC3V3", "u16", _PL, 0x44, 0.005, "pl"),
        Rail("VADJ_FMC", "u65", _PL, 0x45, 0.005, "pl"),
        Rail("MGTAVCC", "u74", _PL, 0x46, 0.005, "pl"),
        Rail("MGTAVTT", "u75", _PL, 0x47, 0.005, "pl"),
        Rail("VCCPSINTFP", "u76", _PS, 0x40, 0.005, "ps"),
        Rail("VCCPSINTLP", "u77", _PS, 0x41, 0.005, "ps"),
        Rail("VCCPSAUX", "u78", _PS, 0x42, 0.005, "ps"),
        Rail("VCCPSPLL", "u87", _PS, 0x43, 0.005, "ps"),
        Rail("MGTRAVCC", "u85", _PS, 0x44, 0.005, "ps"),
        Rail("MGTRAVTT", "u86", _PS, 0x45, 0.005, "ps"),
        Rail("VCCO_PSDDR_504", "u93", _PS, 0x46, 0.005, "ps"),
        Rail("VCCOPS", "u88", _PS, 0x47, 0.005, "ps"),
        Rail("VCCOPS3", "u15", _PS, 0x4A, 0.005, "ps"),
        Rail("VCCPSDDRPLL", "u92", _PS, 0x4B, 0.005, "ps"),
    ),
)

BOARDS = {board.name: board for board in (ZCU102,)}
