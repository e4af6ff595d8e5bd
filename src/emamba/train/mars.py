"""The MARS pipeline: teachers, float network, fitted tables, integers, one look at the test split.

Every stage is resumable: a second run in the same folder goes on where the first one stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from emamba.config import Fixed, ModelConfig
from emamba.data import MarsSplit, read_mars
from emamba.evaluate import pose_errors, pose_report
from emamba.fixed import IntegerModel
from emamba.model import EXP, SILU, EMamba, FloatNumerics, PiecewiseLinear, count_parameters
from emamba.package import new_folder, write_package
from emamba.quantise import FakeQuantNumerics, calibrate, fit_tables, to_integer_model
from emamba.quantise.convert import integer_tables
from emamba.tasks import PoseTask
from emamba.train.augment import Augmentation, normalise
from emamba.train.checkpoint import save_checkpoint
from emamba.train.loop import Fit, Progress, Schedule, fit
from emamba.train.mars_data import TrainingData, read_training_data
from emamba.train.predict import predict, predict_integers
from emamba.train.record import claim_folder, describe, git_revision, plot_curves, write_record
from emamba.train.teacher import PointSetTeacher

__all__ = ["MARS_CONFIG", "MarsRecipe", "MarsRun", "train_mars"]

Joints = npt.NDArray[np.float64]

MARS_CONFIG = ModelConfig(
    input_height=8,
    input_width=8,
    input_channels=5,
    n_outputs=57,
    d_model=20,
    n_layer=2,
    d_state=8,
    d_conv=4,
    expand=2,
    dt_rank=1,
    patch=2,
    head_width=24,
)


@dataclass(frozen=True)
class MarsRecipe:
    """Everything a run depends on besides the data."""

    config: ModelConfig = MARS_CONFIG
    norm: str = "range"
    teachers: int = 1
    teacher_schedule: Schedule = Schedule(epochs=16, lr=2e-3, evaluate_every=4)
    float_schedule: Schedule = Schedule(epochs=120, lr=1e-2, evaluate_every=5)
    tables_schedule: Schedule = Schedule(epochs=6, lr=1e-3, evaluate_every=2)
    integers_schedule: Schedule = Schedule(epochs=8, lr=1e-3, evaluate_every=2)
    augmentation: Augmentation = Augmentation(drop=0.3, jitter_m=0.02)
    teacher_share: float = 1.0
    huber_m: float = 0.1
    seed: int = 0


class MarsRun:
    """One run in one folder."""

    def __init__(
        self, data: TrainingData, recipe: MarsRecipe, folder: Path, progress: Progress
    ) -> None:
        self.data, self.recipe, self.folder, self.progress = data, recipe, folder, progress
        self.histories: dict[str, list[dict[str, float]]] = {}
        self._teachers: list[PointSetTeacher] = []
        self._scale = torch.tensor(data.task.output_scale)
        self._offset = torch.tensor(data.task.output_offset)

    def train_teachers(self) -> None:
        """Teachers on the labelled rows, each from its own seed."""
        for number in range(self.recipe.teachers):
            torch.manual_seed(self.recipe.seed + 100 + number)
            teacher = PointSetTeacher(self.recipe.config.n_outputs)
            self._fit(
                f"teacher{number}", teacher, self.recipe.teacher_schedule, len(self.data.labels)
            )
            self._teachers.append(teacher.requires_grad_(False))

    def train_float(self) -> EMamba:
        """The network with exact SiLU and exp."""
        torch.manual_seed(self.recipe.seed)
        network = EMamba(self.recipe.config, self.recipe.norm)
        self._fit("float", network, self.recipe.float_schedule, self._rows)
        return network

    def tune_tables(self, network: EMamba) -> None:
        """Fine-tune network and breakpoints together."""
        self._fit("tables", network, self.recipe.tables_schedule, self._rows)

    def tune_integers(self, network: EMamba, formats: dict[str, Fixed]) -> IntegerModel:
        """Fine-tune through the integer pipeline's own arithmetic; scales and tables stay."""
        network.tables.requires_grad_(False)
        network.set_numerics(FakeQuantNumerics(formats, integer_tables(network, formats)))
        self._fit("integers", network, self.recipe.integers_schedule, self._rows)
        network.set_numerics(FloatNumerics())
        return to_integer_model(network, formats)

    @property
    def _rows(self) -> int:
        """Rows that have a target: all of them once there are teachers."""
        return len(self.data.points) if self._teachers else len(self.data.labels)

    def calibration_maps(self) -> Tensor:
        """Every eighth training frame, normalised."""
        return normalise(self.data.points[::8], self.data.task).reshape(-1, *self._map_shape)

    @property
    def _map_shape(self) -> tuple[int, int, int]:
        return self.recipe.config.input_shape

    def _fit(self, stage: str, network: nn.Module, schedule: Schedule, rows: int) -> None:
        job = Fit(stage, network, rows, self._loss, self._held_out_errors)
        seed = self.recipe.seed + sum(stage.encode())
        self.histories[stage] = fit(job, schedule, self.folder, seed, self.progress)

    def _loss(self, network: nn.Module, rows: Tensor) -> Tensor:
        points = self.recipe.augmentation(self.data.points[rows])
        targets = self._targets(points, rows)
        return functional.huber_loss(
            self._joints(network, points), targets, delta=self.recipe.huber_m
        )

    def _targets(self, points: Tensor, rows: Tensor) -> Tensor:
        """Labels blended with the teachers' mean; the teachers alone where there is no label."""
        known = rows < len(self.data.labels)
        labels = self.data.labels[rows.clamp_max(len(self.data.labels) - 1)]
        if not self._teachers:
            return labels
        with torch.no_grad():
            taught = torch.stack([self._joints(t, points) for t in self._teachers]).mean(0)
        share = torch.where(known, self.recipe.teacher_share, 1.0)[:, None]
        return torch.lerp(labels, taught, share)

    def _joints(self, network: nn.Module, points: Tensor) -> Tensor:
        """(b, 64, 5) raw points -> (b, 57) metres, by a teacher or an eMamba."""
        x = normalise(points, self.data.task)
        if isinstance(network, PointSetTeacher):
            out = network(x, points[..., 4] > 0)
        else:
            out = network(x.reshape(-1, *self._map_shape))
        joints: Tensor = out * self._scale + self._offset
        return joints

    def _held_out_errors(self, network: nn.Module) -> dict[str, float]:
        points = torch.from_numpy(self.data.held_out.features).reshape(-1, 64, 5)
        joints = torch.cat([self._joints(network, chunk) for chunk in torch.split(points, 512)])
        return pose_errors((joints.numpy() - self.data.held_out.labels)[..., None])


def train_mars(
    data_folder: Path, out: Path, version: str, recipe: MarsRecipe, progress: Progress
) -> dict[str, Any]:
    """The whole pipeline; returns the run's record, also written to `<out>/record.json`.

    One network goes through it all; what it ends as is the float model, and its rounding the
    package. Leaves `float.safetensors`, `curves.png` and `packages/mars/<version>` in `out`. The
    test split is read once, after everything is chosen. Raises `DataError`; `PackageError` if that
    version is there already or cannot be a folder; `OtherRun` if `out` is another run's.
    """
    new_folder(out / "packages", "mars", version)
    revision = git_revision(Path(__file__).parent)
    data = read_training_data(data_folder)
    claim_folder(out, {"recipe": dataclasses.asdict(recipe), **data.identity})
    counts = {
        "rows": len(data.points),
        "labelled": len(data.labels),
        "held_out": len(data.held_out),
    }
    progress("data", 1, 1, {name: float(count) for name, count in counts.items()})
    run = MarsRun(data, recipe, out, progress)
    run.train_teachers()
    network = run.train_float()
    ablation = {"exact": _held_out(network, data)}
    network.tables.update({spec.name: PiecewiseLinear(spec) for spec in (SILU, EXP)})
    ablation["unfitted tables"] = _held_out(network, data)
    fit_tables(network, run.calibration_maps())
    ablation["fitted tables"] = _held_out(network, data)
    run.tune_tables(network)
    ablation["fine-tuned tables"] = _held_out(network, data)
    formats = calibrate(network, run.calibration_maps())
    rounded = to_integer_model(network, formats)
    ablation["integers, calibrated"] = _held_out_integers(rounded, data)
    model = run.tune_integers(network, formats)
    ablation["integers, fine-tuned"] = _held_out_integers(model, data)
    ablation["float twin of the integers"] = _held_out(network, data)
    record = {"git_revision": revision, **describe(recipe, data, run.histories, ablation)}
    record["test"] = _test(network, model, data.task, read_mars(data_folder, "test"))
    _leave(out, version, network, model, data, record)
    plot_curves(out / "curves.png", run.histories)
    return record


def _errors(joints: Joints, split: MarsSplit) -> dict[str, float]:
    report = pose_report(joints, split)
    return {key: round(report[key], 4) for key in ("mae_cm", "rmse_cm")}


def _held_out(network: EMamba, data: TrainingData) -> dict[str, float]:
    return _errors(predict(network, data.task, data.held_out.features), data.held_out)


def _held_out_integers(model: IntegerModel, data: TrainingData) -> dict[str, float]:
    return _errors(predict_integers(model, data.task, data.held_out.features), data.held_out)


def _test(network: EMamba, model: IntegerModel, task: PoseTask, split: MarsSplit) -> dict[str, Any]:
    return {
        "frames": len(split),
        "float": _errors(predict(network, task, split.features), split),
        "mirror": _errors(predict_integers(model, task, split.features), split),
    }


def _leave(
    out: Path,
    version: str,
    network: EMamba,
    model: IntegerModel,
    data: TrainingData,
    record: dict[str, Any],
) -> None:
    """Checkpoint, record, and last the package, with a copy of the checkpoint."""
    wanted = ("recipe", "data_sha256", "data_origin", "git_revision", "environment")
    provenance = {key: record[key] for key in wanted}
    checkpoint = out / "float.safetensors"
    save_checkpoint(checkpoint, network, data.task, provenance)
    provenance["float_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    accuracy = {
        "metric": "per coordinate over all frames, averaged over 57",
        "split": f"test ({data.origin})",
        "obtained": "measured",
        **record["test"],
    }
    record["parameters"] = count_parameters(network)
    write_record(out / "record.json", record)
    folder = write_package(
        out / "packages", "mars", version, model, data.task, provenance, accuracy
    )
    shutil.copy(checkpoint, folder)
