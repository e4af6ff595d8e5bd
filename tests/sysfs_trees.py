"""Sysfs trees written from zcu102.json, which was made from documentation and not on a board."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
BOARD = json.loads((ROOT / "service" / "telemetry" / "zcu102.json").read_text())
CONTROLLERS = {0: "ff020000.i2c", 1: "ff030000.i2c"}


class Tree:
    """A folder that stands in for /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.power: dict[str, Path] = {}
        # As a kernel that probed in another order would: not ascending, with holes.
        self._numbers = iter((number * 7 + 3) % 41 for number in range(41))

    def write(self, path: str, files: Mapping[str, Any]) -> Path:
        folder = self.root / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / name).write_text(f"{value}\n")
        return folder

    def link(self, path: Path, target: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def hwmon(self, device: str, files: Mapping[str, Any]) -> Path:
        """A hwmon device of `device`, with its link in the class."""
        number = next(self._numbers)
        folder = self.write(f"{device}/hwmon/hwmon{number}", files)
        self.link(folder / "device", self.root / device)
        self.link(self.root / f"class/hwmon/hwmon{number}", folder)
        return folder

    def device_tree(self) -> None:
        compatible = "".join(f"{name}\0" for name in BOARD["compatible"])
        folder = self.write("firmware/devicetree/base", {})
        (folder / "compatible").write_bytes(compatible.encode())

    def mux_channel(self, controller: int, channel: int, bus: int, address: str = "0075") -> str:
        """Bus `bus` behind a multiplexer of a controller; the path of the bus."""
        parent = f"devices/platform/axi/{CONTROLLERS[controller]}/i2c-{controller}"
        mux = self.write(f"{parent}/{controller}-{address}", {"name": "pca9544"})
        name = f"i2c-{controller}-mux (chan_id {channel})"
        adapter = self.write(f"{parent}/i2c-{bus}", {"name": name})
        self.link(adapter / "mux_device", mux)
        self.link(mux / f"channel-{channel}", adapter)
        return f"{parent}/i2c-{bus}"

    def ina226(self, device: str, shunt_uohm: int, power_uw: int) -> Path:
        """A chip that is served by `ina2xx`."""
        files = {"name": "ina226", "shunt_resistor": shunt_uohm, "power1_input": power_uw}
        return self.hwmon(device, files | {"in0_input": 1, "in1_input": 850, "curr1_input": 100})


def sensors(without: tuple[str, ...]) -> list[tuple[str, str, int, str, int, int]]:
    return [tuple(row) for row in BOARD["sensors"] if row[1] not in without]


def iio_tree(root: Path, without: tuple[str, ...] = ()) -> Tree:
    """A ZCU102 whose kernel has ina2xx-adc and iio-hwmon, and AMD's AMS driver."""
    tree = Tree(root)
    tree.device_tree()
    for designator, rail, _, _, _, power_uw in sensors(without):
        files = {"name": f"ina226_{designator}", "power1_input": power_uw}
        files |= {"in1_input": 1, "in2_input": 850, "curr1_input": 100}
        folder = tree.hwmon(f"devices/platform/ina226-{designator}", files)
        tree.power[rail] = folder / "power1_input"
    files = {"name": "ams"}
    for number, sensor in enumerate(("ps", "remote", "pl")):
        stem = f"in_temp{number}_{sensor}_temp"
        files[f"{stem}_raw"] = BOARD["temperature_raw"][sensor]
        files[f"{stem}_scale"] = BOARD["temperature_scale"]
        files[f"{stem}_offset"] = BOARD["temperature_offset"]
    tree.write("bus/iio/devices/iio:device0", {"name": "ina226"})
    tree.write("bus/iio/devices/iio:device18", files)
    return tree
