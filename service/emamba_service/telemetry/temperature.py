"""Finds and reads the chip's temperatures, which Linux's AMS driver gives through IIO.

AMD's kernels put the sensor into the file's name, `in_temp0_ps_temp_raw`; mainline numbers the
files and names the sensor in `in_temp7_label`. Either way degC = (raw + offset) * scale / 1000.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["find_temperatures", "read_temperature_c"]

# `remote` is the second sensor of the processing system: the full-power domain, near the A53 cores.
_NAMED = re.compile(r"in_temp\d+_(ps|remote|pl)_temp_raw")
_LABELLED = {"Temp_LPD": "ps", "Temp_FPD": "remote", "Temp_PL": "pl", "PL": "pl"}
# No chip works beyond these; a sensor that is not converting reads 0, which would be -280 degC.
_LEAST_C, _MOST_C = -100, 200


def find_temperatures(sysfs: Path) -> dict[str, Path]:
    """The common beginning of `<it>_raw`, `_offset` and `_scale` by sensor: ps, pl, remote."""
    found: dict[str, Path] = {}
    for raw in sorted((sysfs / "bus/iio/devices").glob("iio:device*/in_temp*_raw")):
        stem = raw.with_name(raw.name.removesuffix("_raw"))
        sensor = _sensor(raw.name, stem)
        if sensor:
            found.setdefault(sensor, stem)
    return found


def read_temperature_c(stem: Path) -> float:
    """Temperature in degC; raises `OSError` or `ValueError` where the sensor gives none."""
    raw, offset, scale = (
        float(stem.with_name(f"{stem.name}_{part}").read_text("ascii"))
        for part in ("raw", "offset", "scale")
    )
    celsius = (raw + offset) * scale / 1000
    if not _LEAST_C <= celsius <= _MOST_C:
        raise ValueError(
            f"temperature must be {_LEAST_C}..{_MOST_C} degC, but is {celsius:g} degC (raw {raw:g})"
        )
    return celsius


def _sensor(name: str, stem: Path) -> str | None:
    if match := _NAMED.fullmatch(name):
        return match[1]
    try:
        return _LABELLED.get(stem.with_name(f"{stem.name}_label").read_text("ascii").strip())
    except (OSError, ValueError):
        return None
