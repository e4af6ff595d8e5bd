"""The image pipeline: teacher, float network, fitted tables, integers, temperature, test split.

Every stage is resumable: a second run in the same folder goes on where the first one stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from emamba.config import Fixed, ModelConfig
from emamba.data import DATASETS, ImageSplit, read_images
from emamba.evaluate import class_report, fit_temperature
from emamba.fixed import IntegerModel
from emamba.model import EMamba, FloatNumerics, count_parameters
from emamba.package import decode, load_package, new_folder, write_package
from emamba.quantise import FakeQuantNumerics, calibrate, fit_tables, to_integer_model
from emamba.quantise.convert import integer_tables
from emamba.tasks import ImageTask
from emamba.train.card import write_card
from emamba.train.checkpoint import save_checkpoint
from emamba.train.cnn import PictureTeacher
from emamba.train.images_data import ImageAugmentation, ImageData, read_image_data
from emamba.train.loop import Fit, Progress, Schedule, fit, save
from emamba.train.predict import integer_outputs, predict, predict_integers
from emamba.train.record import claim_folder, describe, git_revision, write_record

__all__ = ["ImageRecipe", "ImageRun", "train_images"]

Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ImageRecipe:
    """Everything a run depends on besides the data.

    Each picture is seen in at most `teacher_views` ways. Targets are `teacher_share` parts the
    teacher's softened probabilities for that view, and the rest labels.
    """

    dataset: str
    config: ModelConfig
    augmentation: ImageAugmentation
    teacher_augmentation: ImageAugmentation
    float_schedule: Schedule
    integers_schedule: Schedule
    teacher_schedule: Schedule
    teacher_width: int = 16
    teacher_views: int = 8
    teacher_share: float = 0.9
    softening: float = 2.0
    label_smoothing: float = 0.1
    held_out: int = 2500
    seed: int = 0

    @property
    def teacher(self) -> dict[str, Any]:
        """What the teacher depends on: networks of all sizes share it."""
        everything = dataclasses.asdict(self)
        names = (
            "dataset",
            "held_out",
            "label_smoothing",
            "seed",
            "teacher_augmentation",
            "teacher_schedule",
            "teacher_width",
        )
        return {name: everything[name] for name in names}


@dataclass(frozen=True)
class Answers:
    """The teacher's: of n rows in up to v ways to see each, drawn for each row.

    `ways` is int64 (n, v), as `ImageAugmentation.change` takes them; `log_probabilities` float32
    (n, v, n_outputs), softened.
    """

    ways: Tensor
    log_probabilities: Tensor

    def draw(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """For each row one of its ways, (b,), and the answer to it, (b, n_outputs)."""
        views = torch.randint(0, self.ways.shape[1], (len(rows),))
        return self.ways[rows, views], self.log_probabilities[rows, views]


class ImageRun:
    """One run in one folder; the teacher lies beside it, in `teacher_folder`.

    Networks compute on the GPU if there is one, large products in bfloat16 where the machine has
    instructions for it: emulated, it is seven times slower than float32. Raises `OtherRun` if the
    teacher's folder is of another one.
    """

    def __init__(
        self,
        data: ImageData,
        recipe: ImageRecipe,
        folder: Path,
        teacher_folder: Path,
        progress: Progress,
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.half = _has_bfloat16(self.device)
        self.data, self.recipe, self.progress = data, recipe, progress
        self.folder, self.teacher_folder = folder, teacher_folder
        self.histories: dict[str, list[dict[str, float]]] = {}
        self.answers: Answers | None = None
        self._images, self._labels = data.images.to(self.device), data.labels.to(self.device)
        self._held = data.held_images.to(self.device)
        if recipe.teacher_share > 0:
            claim_folder(teacher_folder, {"recipe": recipe.teacher, **data.identity})

    def train_teacher(self) -> None:
        """The CNN whose answers the network learns, if the recipe has one, and its answers."""
        if self.recipe.teacher_share == 0:
            return
        torch.manual_seed(self.recipe.seed + 100)
        shape = DATASETS[self.recipe.dataset].shape
        teacher = PictureTeacher(shape[2], len(self.data.classes), self.recipe.teacher_width)
        schedule = self.recipe.teacher_schedule
        self.fit("teacher", teacher, schedule, self.teacher_folder, self._teacher_loss)
        self.answers = self._answers(teacher)

    @torch.no_grad()
    def _answers(self, teacher: nn.Module) -> Answers:
        """To all training rows; kept in `<folder>/answers.pt`."""
        path = self.folder / "answers.pt"
        if path.exists():
            return Answers(**torch.load(path, weights_only=True))
        change, count = self.recipe.augmentation, len(self._labels)
        generator = torch.Generator().manual_seed(self.recipe.seed)
        order = torch.rand(count, change.count, generator=generator).argsort(1)
        ways, answered = order[:, : self.recipe.teacher_views].clone(), []
        for rows in torch.split(torch.arange(count), 500):
            views = []
            for way in ways[rows].unbind(1):
                pictures = change.change(self._images[rows.to(self.device)], way)
                logits = self.logits(teacher, self.data.normalise(pictures))
                views.append(functional.log_softmax(logits / self.recipe.softening, 1).cpu())
            answered.append(torch.stack(views, 1))
        answers = Answers(ways, torch.cat(answered))
        save(dataclasses.asdict(answers), path)
        return answers

    def train_float(self) -> EMamba:
        """The network with exact SiLU and exp."""
        torch.manual_seed(self.recipe.seed)
        network = EMamba(self.recipe.config)
        network.set_fused(True)
        self.fit("float", network, self.recipe.float_schedule, self.folder)
        return network

    def tune_integers(self, network: EMamba, formats: dict[str, Fixed]) -> IntegerModel:
        """Fine-tune through the integer pipeline's own arithmetic; scales and tables stay.

        In float32 from here on: the residual's 16 bits are more than bfloat16 holds.
        """
        self.half = False
        network.tables.requires_grad_(False)
        network.set_numerics(FakeQuantNumerics(formats, integer_tables(network, formats)))
        self.fit("integers", network, self.recipe.integers_schedule, self.folder)
        network.set_numerics(FloatNumerics())
        return to_integer_model(network.cpu(), formats)

    def calibration_maps(self) -> Tensor:
        """1024 training pictures normalised."""
        return self.data.normalise(self._images[:1024])

    def fit(
        self,
        stage: str,
        network: nn.Module,
        schedule: Schedule,
        folder: Path,
        loss: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> None:
        """Train any network on this data, by `loss` unless another is given; see `loop.fit`."""
        network.to(self.device)
        job = Fit(stage, network, len(self._labels), loss or self.loss, self.held_out, "error")
        seed = self.recipe.seed + sum(stage.encode())
        self.histories[stage] = fit(job, schedule, folder, seed, self.progress)

    def loss(self, network: nn.Module, rows: Tensor) -> Tensor:
        """Of changed pictures of these rows, against the teacher's answers and labels."""
        change = self.recipe.augmentation
        if self.answers is None:
            return self._plain_loss(network, rows, change)
        ways, answered = self.answers.draw(rows)
        logits = self.logits(network, self._pictures(rows, change, ways))
        plain = self._against_labels(logits, rows)
        softening, share = self.recipe.softening, self.recipe.teacher_share
        divergence = functional.kl_div(
            functional.log_softmax(logits / softening, 1),
            answered.to(self.device),
            reduction="batchmean",
            log_target=True,
        )
        return share * softening**2 * divergence + (1 - share) * plain

    def _teacher_loss(self, network: nn.Module, rows: Tensor) -> Tensor:
        return self._plain_loss(network, rows, self.recipe.teacher_augmentation)

    def _plain_loss(self, network: nn.Module, rows: Tensor, change: ImageAugmentation) -> Tensor:
        pictures = self._pictures(rows, change, change.draw(len(rows)))
        return self._against_labels(self.logits(network, pictures), rows)

    def _pictures(self, rows: Tensor, change: ImageAugmentation, ways: Tensor) -> Tensor:
        return self.data.normalise(change.change(self._images[rows.to(self.device)], ways))

    def _against_labels(self, logits: Tensor, rows: Tensor) -> Tensor:
        smoothing = self.recipe.label_smoothing
        labels = self._labels[rows.to(self.device)]
        return functional.cross_entropy(logits, labels, label_smoothing=smoothing)

    def logits(self, network: nn.Module, pictures: Tensor) -> Tensor:
        """Normalised pictures (b, height, width, channels) -> float32 logits, any network's."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            out: Tensor = network(pictures)
        return out.float()

    def held_out(self, network: nn.Module) -> dict[str, float]:
        """`accuracy` and `error` (0..1) on the held-out rows."""
        chunks = torch.split(self._held, 500)
        answers = [self.logits(network, self.data.normalise(chunk)).argmax(1) for chunk in chunks]
        right = float((torch.cat(answers).cpu() == self.data.held_labels).double().mean())
        return {"accuracy": right, "error": 1 - right}


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return any(found.get(key, False) for key in ("amx_bf16", "avx512_bf16", "bf16"))


def image_task(data: ImageData, recipe: ImageRecipe, temperature: float = 1.0) -> ImageTask:
    """The task of networks that this run makes: they give logits as they are."""
    count = len(data.classes)
    return ImageTask(
        shape=DATASETS[recipe.dataset].shape,
        classes=data.classes,
        input_offset=data.mean,
        input_scale=data.deviation,
        output_offset=(0.0,) * count,
        output_scale=(1.0,) * count,
        temperature=temperature,
    )


def train_images(
    data_folder: Path, out: Path, name: str, version: str, recipe: ImageRecipe, progress: Progress
) -> dict[str, Any]:
    """The whole pipeline; returns the run's record, also written to `<out>/<name>/record.json`.

    Leaves `float.safetensors` and its rounding, the package `<out>/packages/<name>/<version>`. The
    teacher, in `<out>/teacher`, is shared by all names. The test split is read once, after
    everything is chosen. Raises `DataError`, `PackageError`, `OtherRun`, `CheckpointError`.
    """
    new_folder(out / "packages", name, version)
    revision = git_revision(Path(__file__).parent)
    data = read_image_data(recipe.dataset, data_folder, recipe.held_out)
    folder = out / name
    counts = {"rows": float(len(data.images)), "held_out": float(len(data.held_images))}
    progress(data.origin, 1, 1, counts)
    run = ImageRun(data, recipe, folder, out / "teacher", progress)
    # Last: where the teacher is another run's, `folder` stays free.
    claim_folder(folder, {"recipe": dataclasses.asdict(recipe), **data.identity})
    run.train_teacher()
    network = run.train_float()
    ablation = {"exact": _held_out(network.cpu(), run)}
    fit_tables(network, run.calibration_maps().cpu())
    ablation["fitted tables"] = _held_out(network, run)
    formats = calibrate(network, run.calibration_maps().cpu())
    rounded = to_integer_model(network, formats)
    calibrated = _Judged.on(rounded, network, run)
    fine_tuned = _Judged.on(run.tune_integers(network, formats), network, run)
    ablation["integers, calibrated"] = {"accuracy": calibrated.accuracy}
    ablation["integers, fine-tuned"] = {"accuracy": fine_tuned.accuracy}
    best = max(calibrated, fine_tuned, key=lambda judged: judged.accuracy)
    network.load_state_dict(best.state)
    ablation["float twin of the integers"] = _held_out(network, run)
    model, task = best.model, image_task(data, recipe, best.temperature)
    record = {"git_revision": revision, **describe(recipe, data, run.histories, ablation)}
    record["trained"] = len(data.images)
    record["parameters"] = count_parameters(network)
    record["test"] = _test(network, model, task, read_images(recipe.dataset, data_folder, "test"))
    _leave(out, name, version, network, model, task, record)
    return record


def _held_out(network: EMamba, run: ImageRun) -> dict[str, float]:
    task = image_task(run.data, run.recipe)
    network.set_fused(False)
    answers = predict(network, task, run.data.held_images.numpy())
    network.set_fused(True)
    return _accuracy(answers, run)


def _accuracy(answers: Probabilities, run: ImageRun) -> dict[str, float]:
    return {"accuracy": float((answers.argmax(1) == run.data.held_labels.numpy()).mean())}


@dataclass(frozen=True)
class _Judged:
    """Integers, what the network was whose rounding they are, their accuracy on held-out rows, and
    the temperature that fits these best."""

    model: IntegerModel
    state: dict[str, Tensor]
    accuracy: float
    temperature: float

    @classmethod
    def on(cls, model: IntegerModel, network: EMamba, run: ImageRun) -> _Judged:
        state = {key: value.clone() for key, value in network.state_dict().items()}
        task = image_task(run.data, run.recipe)
        answers = predict_integers(model, task, run.data.held_images.numpy(), "auto")
        temperature = fit_temperature(np.log(answers), run.data.held_labels.numpy())
        accuracy = _accuracy(answers, run)["accuracy"]
        return cls(model, state, accuracy, float(f"{temperature:.4g}"))


def _test(
    network: EMamba, model: IntegerModel, task: ImageTask, split: ImageSplit
) -> dict[str, Any]:
    untempered = dataclasses.replace(task, temperature=1.0)
    outputs = integer_outputs(model, task, split.images, "auto")
    return {
        "frames": len(split),
        "float": class_report(predict(network, untempered, split.images), split),
        "mirror": class_report(decode(model, task, outputs), split),
        "mirror, temperature 1": class_report(decode(model, untempered, outputs), split),
    }


def _leave(
    out: Path,
    name: str,
    version: str,
    network: EMamba,
    model: IntegerModel,
    task: ImageTask,
    record: dict[str, Any],
) -> None:
    """Checkpoint, record, and last the package, which says that the run is over."""
    wanted = ("recipe", "data_sha256", "data_origin", "git_revision", "environment")
    provenance = {key: record[key] for key in wanted}
    checkpoint = out / name / "float.safetensors"
    save_checkpoint(checkpoint, network, task, provenance)
    provenance["float_sha256"] = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    test = record["test"]
    accuracy = {
        "metric": "share of test images whose likeliest class is their label (0..1)",
        "split": f"test ({record['data_origin']})",
        "obtained": "measured",
        "frames": test["frames"],
        "float": {"accuracy": test["float"]["accuracy"]},
        "mirror": {
            key: test["mirror"][key] for key in ("accuracy", "calibration_error", "per_class")
        },
    }
    write_record(out / name / "record.json", record)
    with tempfile.TemporaryDirectory(dir=out / name) as unfinished:
        folder = write_package(Path(unfinished), name, version, model, task, provenance, accuracy)
        write_card(folder, load_package(folder), record)
        target = out / "packages" / name / version
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(target)
