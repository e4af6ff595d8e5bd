"""Write the golden vectors of a shipped package: inputs, outputs and a hash of every stage.

    .venv/bin/python tests/golden/make.py models/mars/1

Inputs are five extreme frames, and of poses real ones of the client's sample, of images random
ones. Run it only when a package is new: a changed hash for an unchanged package means that the
numbers have changed.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.export.golden import extreme_frames
from emamba.fixed import Mirror
from emamba.package import Package, load_package
from emamba.tasks import ImageTask
from emamba.tasks.mars import feature_maps

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "client" / "emamba_client" / "samples" / "mars_sample.npz"
VERSION = 1
_RANDOM = 4


def golden_path(package: Package) -> Path:
    """Where a package's vectors lie."""
    return Path(__file__).parent / f"{package.name}-{package.version}.npz"


def stage_hashes(package: Package, batch: npt.NDArray[np.int8]) -> dict[str, str]:
    """SHA-256 of each stage's integers as little-endian int32, in row-major order."""
    stages = Mirror(package.model).trace(batch).stages
    return {
        name: hashlib.sha256(np.ascontiguousarray(value, "<i4").tobytes()).hexdigest()
        for name, value in stages.items()
    }


def inputs(package: Package) -> npt.NDArray[np.int8]:
    """59 real frames of poses or 4 random ones of images, and 5 extreme ones, quantised."""
    extreme = extreme_frames(package.model.config)
    if isinstance(package.task, ImageTask):
        shape = (_RANDOM, *package.model.config.input_shape)
        random = np.random.default_rng(VERSION).integers(-127, 128, shape).astype(np.int8)
        return np.concatenate([random, extreme])
    with np.load(SAMPLE) as sample:
        ends = np.cumsum(sample["counts"])
        frames = np.split(sample["points"], ends[:-1])[::4][:59]
    return np.concatenate([package.encode(feature_maps(list(frames))), extreme])


def main() -> None:
    package = load_package(Path(sys.argv[1]))
    batch = inputs(package)
    header = {
        "magic": "emamba-golden",
        "version": VERSION,
        "package_sha256": package.sha256,
        "config_hash": package.model.config_hash,
        "stages": stage_hashes(package, batch),
    }
    path = golden_path(package)
    outputs = Mirror(package.model).run(batch)
    np.savez_compressed(path, header=np.array(json.dumps(header)), input=batch, output=outputs)
    print(path)


if __name__ == "__main__":
    main()
