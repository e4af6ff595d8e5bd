"""Cut the page's replay out of the MARS test split.

    python service/scripts/make_replay.py DIR

reads DIR/mars_test.npz (arrays features, labels, subject, movement, frame, num_points) and writes
one file for each subject and movement, and their list, into service/emamba_service/page/replay.
The same input gives the same arrays.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

REPLAY = Path(__file__).parents[1] / "emamba_service" / "page" / "replay"
RUN_FRAMES = 40
MOVEMENTS = (
    "left upper limb extension",
    "right upper limb extension",
    "both upper limb extension",
    "left front lunge",
    "right front lunge",
    "squat",
    "left side lunge",
    "right side lunge",
    "left limb extension",
    "right limb extension",
)

Arrays = dict[str, npt.NDArray[Any]]


def make_run(test: Arrays, subject: int, movement: int) -> Arrays | None:
    """The arrays of one run of `RUN_FRAMES` frames, that with the fewest lost; None if there is
    none.

    Points are concatenated, `counts` per frame: float32 [sum(counts), 5]. Labels are float32
    [n, 57], 19 x then 19 y then 19 z in metres; frame is the radar's number, ten to the second.
    """
    rows = np.flatnonzero((test["subject"] == subject) & (test["movement"] == movement))
    if len(rows) < RUN_FRAMES:
        return None
    numbers = test["frame"][rows].astype(np.int64)
    start = int(np.argmin(numbers[RUN_FRAMES - 1 :] - numbers[: len(rows) - RUN_FRAMES + 1]))
    rows = rows[start : start + RUN_FRAMES]
    counts = test["num_points"][rows]
    maps = test["features"][rows].reshape(RUN_FRAMES, -1, 5)
    points = np.concatenate([frame[:n] for frame, n in zip(maps, counts, strict=True)])
    return {
        "points": points,
        "counts": counts,
        "labels": test["labels"][rows],
        "frame": test["frame"][rows],
    }


def main() -> None:
    """Read the directory named on the command line and write the replay."""
    if len(sys.argv) != 2:
        sys.exit("usage: make_replay.py DIR")
    with np.load(Path(sys.argv[1]) / "mars_test.npz") as data:
        test = {name: data[name] for name in data.files}
    REPLAY.mkdir(exist_ok=True)
    runs = []
    for subject in range(1, 5):
        for movement, name in enumerate(MOVEMENTS, 1):
            run = make_run(test, subject, movement)
            if run is not None:
                file = f"s{subject}-m{movement:02}.npz"
                np.savez_compressed(REPLAY / file, **run)  # type: ignore[arg-type]
                runs.append({"file": file, "subject": subject, "movement": movement, "name": name})
    (REPLAY / "runs.json").write_text(json.dumps({"runs": runs}) + "\n")
    size = sum(path.stat().st_size for path in REPLAY.glob("*.npz"))
    print(f"{REPLAY}: {len(runs)} runs of {RUN_FRAMES} frames, {size} bytes")


if __name__ == "__main__":
    main()
