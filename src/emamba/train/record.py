"""What a training run leaves behind: a JSON record and its learning curves."""

from __future__ import annotations

import dataclasses
import json
import platform
import subprocess
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

__all__ = [
    "OtherRun",
    "claim_folder",
    "describe",
    "environment",
    "git_revision",
    "plot_curves",
    "write_record",
]

History = list[dict[str, float]]


class Data(Protocol):
    """What every data set says of itself."""

    @property
    def sha256(self) -> dict[str, str]: ...

    @property
    def origin(self) -> str: ...


class OtherRun(Exception):
    """A folder whose saved stages belong to another recipe or other data."""


def claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Mark `folder` as the run of `identity`, in `run.json`; raises `OtherRun` if it is another's.

    Resuming would otherwise go on from stages that a changed recipe no longer describes.
    """
    path = folder / "run.json"
    text = json.dumps(identity, indent=1, sort_keys=True)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # At once or not at all: half of it would be another run's.
        fresh = path.with_suffix(".tmp")
        fresh.write_text(text)
        fresh.replace(path)
    elif path.read_text() != text:
        raise OtherRun(
            f"{folder}: holds a run with another recipe, seed or data; "
            "choose another --out, or remove it"
        )


def git_revision(folder: Path) -> str:
    """The commit that `folder` is at, `-dirty` if changed since, or `unknown` outside git."""
    try:
        text = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return text.strip()


def describe(
    recipe: Any, data: Data, histories: dict[str, History], held_out: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What every run's record says: `recipe`, a dataclass, data, machine, stages, and `held_out`
    metrics by step of the pipeline."""
    return {
        "recipe": dataclasses.asdict(recipe),
        "data_sha256": data.sha256,
        "data_origin": data.origin,
        "environment": environment(),
        "seconds": {
            stage: round(sum(row["seconds"] for row in history), 1)
            for stage, history in histories.items()
        },
        "held_out": held_out,
        "histories": histories,
    }


def environment() -> dict[str, str]:
    """Versions that a run's numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write `record` as JSON; a NaN is an error, not a value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")


def plot_curves(path: Path, histories: dict[str, History]) -> None:
    """Training loss and held-out error of each stage over its epochs, as a picture."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - plots only: starts slowly

    figure = Figure(figsize=(9, 3 * len(histories)), layout="constrained")
    axes = figure.subplots(len(histories), 2, squeeze=False)
    for (stage, history), (left, right) in zip(histories.items(), axes, strict=True):
        left.plot([row["epoch"] for row in history], [row["loss"] for row in history])
        left.set(title=f"{stage}: training loss", xlabel="epoch", yscale="log")
        rows = [row for row in history if "rmse_cm" in row]
        for key in ("rmse_cm", "mae_cm"):
            right.plot([row["epoch"] for row in rows], [row[key] for row in rows], label=key)
        right.set(title=f"{stage}: held-out error (cm)", xlabel="epoch")
        right.legend()
    figure.savefig(path, dpi=100)
