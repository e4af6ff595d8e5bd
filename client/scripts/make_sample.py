"""Cut the client's sample out of the MARS test split.

    python client/scripts/make_sample.py DIR

reads DIR/mars_test.npz (arrays features, labels, subject, movement, frame, num_points) and
writes client/emamba_client/samples/mars_sample.npz. The same input gives the same arrays.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SAMPLE = Path(__file__).parents[1] / "emamba_client" / "samples" / "mars_sample.npz"
RUN_FRAMES = 24
#: Each of the ten movements once, the four subjects in turn: (subject, movement).
RUNS = tuple(((movement - 1) % 4 + 1, movement) for movement in range(1, 11))

Arrays = dict[str, npt.NDArray[Any]]


def make_sample(test: Arrays) -> Arrays:
    """The sample's arrays: ten runs of 24 frames, no frame lost inside a run.

    Points are concatenated, `counts` per frame: float32 [sum(counts), 5]. Labels stay float32
    [n, 57], 19 x then 19 y then 19 z in metres.
    """
    rows = np.concatenate([_run(test, subject, movement) for subject, movement in RUNS])
    counts = test["num_points"][rows]
    maps = test["features"][rows].reshape(len(rows), -1, 5)
    points = np.concatenate([frame[:n] for frame, n in zip(maps, counts, strict=True)])
    kept = {name: test[name][rows] for name in ("labels", "subject", "movement", "frame")}
    return {"points": points, "counts": counts, **kept}


def _run(test: Arrays, subject: int, movement: int) -> npt.NDArray[np.intp]:
    """Rows of the first unbroken run that starts in the second half of a recording."""
    rows = np.flatnonzero((test["subject"] == subject) & (test["movement"] == movement))
    numbers = test["frame"][rows]
    for start in range(len(rows) // 2, len(rows) - RUN_FRAMES + 1):
        if numbers[start + RUN_FRAMES - 1] - numbers[start] == RUN_FRAMES - 1:
            return rows[start : start + RUN_FRAMES]
    raise ValueError(f"subject {subject} movement {movement} has no {RUN_FRAMES} frames in a row")


def main() -> None:
    """Read the directory named on the command line and write the sample."""
    if len(sys.argv) != 2:
        sys.exit("usage: make_sample.py DIR")
    with np.load(Path(sys.argv[1]) / "mars_test.npz") as data:
        sample = make_sample({name: data[name] for name in data.files})
    np.savez_compressed(SAMPLE, **sample)  # type: ignore[arg-type]
    print(f"{SAMPLE}: {len(sample['counts'])} frames, {SAMPLE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
