"""Finding and reading the rails' sensors under both drivers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emamba_service.telemetry.power import find_board, find_rails, read_power_w
from emamba_service.telemetry.rails import GROUPS, ZCU102

VCCINT = ZCU102.rails[0]

POWER_W = {
    "VCCINT": 2.812,
    "VCCBRAM": 0.087,
    "VCCAUX": 0.512,
    "VCC1V2": 0.15,
    "VCC3V3": 0.437,
    "VADJ_FMC": 0.062,
    "MGTAVCC": 0.1,
    "MGTAVTT": 0.2,
    "VCCPSINTFP": 1.012,
    "VCCPSINTLP": 0.25,
    "VCCPSAUX": 0.225,
    "VCCPSPLL": 0.075,
    "MGTRAVCC": 0.012,
    "MGTRAVTT": 0.0,
    "VCCO_PSDDR_504": 0.625,
    "VCCOPS": 0.037,
    "VCCOPS3": 0.025,
    "VCCPSDDRPLL": 0.05,
}


def _read(root: Path) -> dict[str, float]:
    paths = find_rails(root, ZCU102)
    rails = {rail.name: rail for rail in ZCU102.rails}
    return {name: read_power_w(path, rails[name]) for name, path in paths.items()}


@pytest.mark.parametrize("shape", ["iio_tree", "ina226_tree"])
def test_every_rail_is_found_under_either_driver(
    shape: str, request: pytest.FixtureRequest
) -> None:
    tree = request.getfixturevalue(shape)()
    assert find_board(tree.root) is ZCU102
    assert _read(tree.root) == POWER_W


@pytest.mark.parametrize("shape", ["iio_tree", "ina226_tree"])
def test_rails_without_a_sensor_are_absent(shape: str, request: pytest.FixtureRequest) -> None:
    gone = ("VCCINT", "VCCPSAUX", "MGTAVTT")
    tree = request.getfixturevalue(shape)(without=gone)
    assert _read(tree.root) == {name: w for name, w in POWER_W.items() if name not in gone}


def test_a_bus_is_told_by_its_channel_not_its_number(ina226_tree: Callable[..., Any]) -> None:
    tree = ina226_tree()
    mux = tree.root / "devices/platform/axi/ff020000.i2c/i2c-0/0-0075"
    ps, pl = (mux / "channel-0").readlink(), (mux / "channel-1").readlink()
    for name, target in (("channel-0", pl), ("channel-1", ps)):
        (mux / name).unlink()
        (mux / name).symlink_to(target)
    power_w = _read(tree.root)
    # VCCINT's shunt is not that of the sensor now in its place.
    assert "VCCINT" not in power_w
    assert power_w["VCCBRAM"] == POWER_W["VCCPSINTLP"]
    assert power_w["VCCPSINTLP"] == POWER_W["VCCBRAM"]


def test_a_number_given_anew_does_not_swap_rails(iio_tree: Callable[..., Any]) -> None:
    tree = iio_tree()
    path = find_rails(tree.root, ZCU102)["VCCINT"]
    number = tree.root / "class/hwmon" / tree.power["VCCINT"].parent.name
    number.unlink()
    number.symlink_to(tree.power["VCCPSPLL"].parent)
    assert read_power_w(path, VCCINT) == POWER_W["VCCINT"]


def test_a_driver_with_a_wrong_shunt_is_not_believed(
    ina226_tree: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    tree = ina226_tree()
    (tree.power["VCCINT"].parent / "shunt_resistor").write_text("10000\n")
    assert "VCCINT" not in find_rails(tree.root, ZCU102)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "rail VCCINT: shunt_resistor must be 2000 uOhm, but is 10000" in caplog.text


def test_other_boards_and_laptops_have_no_rail_map(laptop_tree: Any) -> None:
    assert find_board(laptop_tree.root) is None
    folder = laptop_tree.write("firmware/devicetree/base", {})
    (folder / "compatible").write_bytes(b"xlnx,zynqmp-zcu111\0xlnx,zynqmp\0")
    assert find_board(laptop_tree.root) is None


@pytest.mark.parametrize("text", ["", "n/a\n", "-1\n", "2.5\n", "2047968751\n", "\xff\n"])
def test_garbage_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "power1_input"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"invalid literal|power must be|codec can't decode"):
        read_power_w(path, VCCINT)


def test_the_register_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "power1_input"
    path.write_text("2047968750\n")
    assert read_power_w(path, VCCINT) == 65535 * 0.03125


def test_groups_and_rounding() -> None:
    names = {group: [rail.name for rail in ZCU102.group_rails(group)] for group in GROUPS}
    assert names["pl_core"] == ["VCCINT", "VCCBRAM"]
    assert names["pl"] == list(POWER_W)[:8]
    assert names["ps"] == list(POWER_W)[8:]
    assert VCCINT.power_step_w == 0.03125
    assert ZCU102.rails[1].power_step_w == 0.0125
    # sqrt((31.25^2 + 12.5^2) / 12) mW; floats in another order, hence the tolerance.
    assert ZCU102.quantisation_w("pl_core") == pytest.approx(9.716e-3, abs=5e-7)
