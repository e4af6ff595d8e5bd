"""From a package to the kernels: configuration header, top, weights image, golden vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from emamba.config import ModelConfig
from emamba.export.folding import Folding
from emamba.export.golden import GOLDEN_VERSION, golden_vectors
from emamba.export.header import INTERFACE_VERSION, config_header
from emamba.export.image import image_crc, image_words, weights_image
from emamba.export.interface import ip_source
from emamba.export.pipeline import find_tap, top_source
from emamba.export.presets import preset
from emamba.export.resources import resources, total
from emamba.export.sources import source_hash
from emamba.export.timing import CLOCK_HZ, fifo_depths, pipeline_depths, simulate
from emamba.fixed import IntegerModel
from emamba.package import Package

__all__ = ["export_hls", "kernel_sources"]

_RESOURCES = ("dsp", "lut", "ff", "bram36")


def kernel_sources(config: ModelConfig, folding: Folding, tap: str | None = None) -> dict[str, str]:
    """The generated sources of one kernel, by path: sizes, top and outermost wrapper.

    With `tap`, a stream's name, the kernel answers with that stage's tokens. Raises `TapError` for
    an unknown one.
    """
    tapped = None if tap is None else find_tap(tap, config)
    return {
        "emamba/config.hpp": config_header(
            config, folding, pipeline_depths(config, folding), tapped
        ),
        "top.cpp": top_source(folding, fifo_depths(config, folding), tapped),
        "ip.cpp": ip_source(image_words(config)),
    }


def export_hls(
    package: Package, preset_name: str, out: Path, tap: str | None = None
) -> dict[str, Any]:
    """Write everything that a kernel of `package` is built and checked from; returns `export.json`.

    Equal inputs give equal bytes. Raises `PresetError`, `TapError`, `ImageError` or `OSError`.
    """
    model = package.model
    folding = preset(preset_name, model.config)
    image = weights_image(model)
    files = {
        name: text.encode() for name, text in kernel_sources(model.config, folding, tap).items()
    }
    files["weights.bin"] = image.astype("<u8").tobytes()
    files["golden.bin"] = golden_vectors(model)
    record = {
        "package": f"{package.name}/{package.version}",
        "package_sha256": package.sha256,
        "config_hash": model.config_hash,
        "preset": preset_name,
        "tap": tap,
        "folding": folding.constants() | {"fifo_bram_bits": folding.fifo_bram_bits},
        "interface_version": INTERFACE_VERSION,
        "golden_version": GOLDEN_VERSION,
        "kernel_source_sha256": source_hash("include"),
        "weights_crc": image_crc(image),
        "modelled": _modelled(model, folding),
        "files": {name: hashlib.sha256(raw).hexdigest() for name, raw in files.items()},
    }
    (out / "emamba").mkdir(parents=True, exist_ok=True)
    for name, raw in files.items():
        (out / name).write_bytes(raw)
    (out / "export.json").write_text(json.dumps(record, indent=1) + "\n")
    return record


def _modelled(model: IntegerModel, folding: Folding) -> dict[str, Any]:
    """What the kernel should need, by docs/kernel-model.md; nothing here is measured."""
    config = model.config
    depths = fifo_depths(config, folding)
    timing = simulate(config, folding, depths, frames=4)
    needs = total(resources(config, folding, depths))
    return {
        "clock_hz": CLOCK_HZ,
        "interval_cycles": timing.interval_cycles,
        "latency_cycles": timing.latency_cycles,
        "resources": {name: getattr(needs, name) for name in _RESOURCES},
        "shares": dict(zip(_RESOURCES, needs.shares(), strict=True)),
    }
