"""Real radar frames that come with the client; README.md beside this file tells their origin."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class SampleFrame:
    """One frame of the MARS test split.

    `points` is float32 [n, 5]: x, y, z (m), Doppler (m/s), intensity. `labels` is float64
    (19, 3): the Kinect's joints in the order of `JOINTS`, in metres. `subject` is 1..4,
    `movement` 1..10 and `number` the radar's own frame number, ten to the second.
    """

    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    subject: int
    movement: int
    number: int


def sample_frames(
    subject: int | None = None, movement: int | None = None
) -> tuple[SampleFrame, ...]:
    """Return the sample's frames in time order, all or those of one subject or movement.

    Raises `ValueError` naming what there is where no frame is left.
    """
    frames = _load()
    chosen = tuple(
        frame
        for frame in frames
        if subject in (None, frame.subject) and movement in (None, frame.movement)
    )
    if not chosen:
        raise ValueError(_nothing_left(frames, subject, movement))
    return chosen


def _nothing_left(frames: list[SampleFrame], subject: int | None, movement: int | None) -> str:
    asked = {"subject": subject, "movement": movement}
    wanted = " and ".join(
        f"{name} {number}" for name, number in asked.items() if number is not None
    )
    movements: dict[int, set[int]] = {}
    for frame in frames:
        movements.setdefault(frame.subject, set()).add(frame.movement)
    there = "; ".join(
        f"subject {who} with movements {', '.join(map(str, sorted(movements[who])))}"
        for who in sorted(movements)
    )
    return f"the sample has no frames of {wanted}; it has {there}"


def _load() -> list[SampleFrame]:
    with (files(__package__) / "mars_sample.npz").open("rb") as file, np.load(file) as data:
        arrays = {name: data[name] for name in data.files}
    points = np.split(arrays["points"], np.cumsum(arrays["counts"])[:-1])
    labels = arrays["labels"].astype(np.float64).reshape(-1, 3, 19).transpose(0, 2, 1)
    columns = (arrays[name].tolist() for name in ("subject", "movement", "frame"))
    return [SampleFrame(*frame) for frame in zip(points, labels, *columns, strict=True)]
