"""The model card of an image package: what it is, how good, on what data, and where it ends."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from emamba.data import DATASETS
from emamba.package import Package

__all__ = ["write_card"]

_CARD = Path(__file__).with_name("card.md")


def write_card(folder: Path, package: Package, record: dict[str, Any]) -> None:
    """Write `README.md` and `confusion.png` into a package's folder from its run's record."""
    recipe, test = record["recipe"], record["test"]
    dataset = DATASETS[recipe["dataset"]]
    mirror = test["mirror"]
    text = _CARD.read_text().format(
        name=package.name,
        revision=record["git_revision"],
        version=package.version,
        what=dataset.depicts,
        count=len(dataset.classes),
        classes=", ".join(dataset.classes),
        parameters=package.model.n_parameters,
        int8_bytes=package.model.int8_bytes,
        tables=record["parameters"] - package.model.n_parameters,
        dataset=dataset.name,
        frames=test["frames"],
        mirror_accuracy=mirror["accuracy"],
        calibration_error=mirror["calibration_error"],
        float_accuracy=test["float"]["accuracy"],
        temperature=package.task.to_json()["output"]["temperature"],
        untempered_error=test["mirror, temperature 1"]["calibration_error"],
        rows="\n".join(f"| {name} | {share:.1%} |" for name, share in mirror["per_class"].items()),
        title=dataset.title,
        origin=record["data_origin"],
        licence=dataset.licence,
        trained=record["trained"],
        held_out=recipe["held_out"],
        limits=dataset.limits,
    )
    (folder / "README.md").write_text(text)
    _plot(folder / "confusion.png", mirror["confusion"], dataset.classes)


def _plot(path: Path, confusion: list[list[int]], classes: tuple[str, ...]) -> None:
    """Labels by row, answers by column: counts, shaded by their share of the row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - plots only: starts slowly

    counts = np.array(confusion)
    shares = counts / counts.sum(1, keepdims=True).clip(1)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    # The square root shows rare confusions beside the diagonal.
    axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.35 else "black"
        text = str(counts[row, column])
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="answer", ylabel="label")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=90)
    # A palette takes a quarter of the bytes.
    Image.open(drawn).convert("RGB").quantize(64).save(path, optimize=True)
