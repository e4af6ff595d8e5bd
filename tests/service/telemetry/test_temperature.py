"""Finding and reading the chip's temperatures under both drivers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emamba_service.telemetry.temperature import find_temperatures, read_temperature_c

# (raw - 36058) * 7.771514892 / 1000
CELSIUS = {
    "ps": 5942 * 7.771514892 / 1000,
    "remote": 6042 * 7.771514892 / 1000,
    "pl": 4942 * 7.771514892 / 1000,
}


def _read(root: Path) -> dict[str, float]:
    return {sensor: read_temperature_c(stem) for sensor, stem in find_temperatures(root).items()}


@pytest.mark.parametrize("shape", ["iio_tree", "ina226_tree"])
def test_all_three_under_either_driver(shape: str, request: pytest.FixtureRequest) -> None:
    celsius = _read(request.getfixturevalue(shape)().root)
    assert celsius == CELSIUS
    assert {name: round(value, 2) for name, value in celsius.items()} == {
        "ps": 46.18,
        "remote": 46.96,
        "pl": 38.41,
    }


def test_the_plain_label_pl_is_taken_too(ina226_tree: Callable[..., Any]) -> None:
    tree = ina226_tree()
    (tree.root / "bus/iio/devices/iio:device3/in_temp9_label").write_text("PL\n")
    assert _read(tree.root) == CELSIUS


def test_other_labels_and_machines_give_nothing(
    ina226_tree: Callable[..., Any], laptop_tree: Any
) -> None:
    assert find_temperatures(laptop_tree.root) == {}
    tree = ina226_tree()
    (tree.root / "bus/iio/devices/iio:device3/in_temp9_label").write_text("ambient\n")
    (tree.root / "bus/iio/devices/iio:device3/in_temp8_label").unlink()
    assert set(find_temperatures(tree.root)) == {"ps"}


@pytest.mark.parametrize("raw", ["0", "nan", "65535", "warm"])
def test_what_no_chip_has_is_refused(raw: str, iio_tree: Callable[..., Any]) -> None:
    stem = find_temperatures(iio_tree().root)["pl"]
    stem.with_name(f"{stem.name}_raw").write_text(f"{raw}\n")
    with pytest.raises(ValueError, match=r"temperature must be -100\.\.200 degC|could not convert"):
        read_temperature_c(stem)


def test_a_sensor_without_scale_cannot_be_read(iio_tree: Callable[..., Any]) -> None:
    stem = find_temperatures(iio_tree().root)["ps"]
    stem.with_name(f"{stem.name}_scale").unlink()
    with pytest.raises(FileNotFoundError):
        read_temperature_c(stem)
