"""A made-up data set in the packed form of MARS."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from emamba.tasks.mars import feature_map


def write_data(folder: Path) -> None:
    """Three splits and unlabelled frames: 2 subjects, 2 movements, 160 frames a split."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split in ("train", "validate", "test"):
        clouds = [rng.random((20, 5)).astype(np.float32) for _ in range(160)]
        np.savez(
            folder / f"mars_{split}.npz",
            features=np.stack([feature_map(c) for c in clouds]),
            labels=np.stack([np.tile(c.mean(0)[:3].repeat(19), 1) for c in clouds]),
            subject=np.arange(160, dtype=np.uint8) // 80 + 1,
            movement=np.arange(160, dtype=np.uint8) // 40 % 2 + 1,
        )
    np.savez(
        folder / "mars_train_s1_radar_only.npz", features=np.stack([feature_map(c) for c in clouds])
    )
