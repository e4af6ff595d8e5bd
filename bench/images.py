"""Our image networks beside a CNN, a vision transformer and an MLP-Mixer: same data, same recipe.

    .venv/bin/python -m bench.images --data DIR --out runs/rivals --json docs/results/images.json

Every rival trains as our medium network of the data set does: its epochs, changes and teacher; its
learning rate and whether Muon learns its matrices are the best of `TRIED` for its family, after a
short trial of its first on held-out pictures. Ours are the shipped packages, which must be of
today's recipes. "INT8 bytes" counts a byte a parameter; accuracy is that of the test split, of
rivals in float, which flatters them if anything. Latency is one thread's: ours the native engine,
rivals ONNX Runtime, the fastest of FP32 and two ways to INT8, all in turns. Accuracy is matched to
our small and medium networks; our large one learns longer than rivals may. A second call resumes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from bench.engines import disturbances, machine, quieten, race
from bench.image_rivals import Mixer, ResNet, VisionTransformer
from bench.matching import at_our_accuracy, standard_error
from bench.opponents import Contender, onnx_runtime_as_trained
from rich.console import Console
from rich.table import Table
from torch import nn

from emamba.data import DATASETS, DataError, ImageSplit, read_images
from emamba.engines import NativeEngine
from emamba.evaluate import in_batches
from emamba.model import count_parameters
from emamba.package import Package, PackageError, load_package
from emamba.train.image_recipes import RECIPES
from emamba.train.images import ImageRun
from emamba.train.images_data import ImageData, read_image_data
from emamba.train.loop import Schedule
from emamba.train.record import OtherRun, claim_folder

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 64)
ROUNDS = 9
# Learning rate, and whether by Muon.
TRIED = [(rate, muon) for muon in (True, False) for rate in (2e-3, 4e-3, 8e-3)]
TRIAL_EPOCHS, TRIAL_ROWS = 4, 10_000
# Which family's learning rate and optimiser another takes: only their heads differ.
LEARNS_AS = {"ViT, our head": "ViT"}
OURS = "eMamba"
Row = dict[str, Any]
Make = Callable[[tuple[int, int, int], int], nn.Module]
Family = dict[str, Make]


def _cnn(width: int) -> Make:
    return lambda shape, outputs: ResNet(shape[2], outputs, width)


def _vit(width: int, depth: int, head_width: int = 0) -> Make:
    return lambda shape, outputs: VisionTransformer(
        shape, outputs, width, depth, head_width=head_width
    )


def _mixer(width: int, depth: int) -> Make:
    return lambda shape, outputs: Mixer(shape, outputs, width, depth)


# By family and size, that of the trial first. Several where accuracy is to be matched; of the
# others one of about our medium network's size.
RIVALS: dict[str, dict[str, Family]] = {
    "fashion-mnist": {
        "CNN": {"ResNet-8, width 4": _cnn(4), "ResNet-8, width 8": _cnn(8)},
        "ViT": {"16 x 3": _vit(16, 3), "24 x 3": _vit(24, 3), "32 x 4": _vit(32, 4)},
        "MLP-Mixer": {"24 x 3": _mixer(24, 3)},
        "ViT, our head": {"20 x 3": _vit(20, 3, 12)},
    },
    "cifar10": {
        "CNN": {"ResNet-8, width 4": _cnn(4), "ResNet-8, width 8": _cnn(8)},
        "ViT": {"48 x 4": _vit(48, 4), "32 x 3": _vit(32, 3)},
        "MLP-Mixer": {"48 x 4": _mixer(48, 4)},
    },
}


def main(
    data: Annotated[Path, typer.Option(help="Folder with both data sets.")],
    out: Annotated[Path, typer.Option(help="Folder of the runs; a second call resumes.")] = Path(
        "runs/rivals"
    ),
    teachers: Annotated[
        Path, typer.Option(help="Folder with <data set>/teacher, as `emamba train` left it.")
    ] = Path("runs"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    only: Annotated[str | None, typer.Option(help="One data set, without --json.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of training.")] = 2,
) -> None:
    """Train rivals, measure all, and say what equal accuracy costs each family."""
    if only is not None and json_file is not None:
        raise SystemExit("error: --json must hold all data sets; leave out --only")
    if only is not None and only not in DATASETS:
        raise SystemExit(f"error: --only must be one of {', '.join(DATASETS)}, not {only!r}")
    quieten()
    report: dict[str, Any] = {"obtained": "measured", "machine": machine(), "data": {}}
    for name in DATASETS if only is None else [only]:
        torch.set_num_threads(threads)
        try:
            bench = Bench(name, data, out / name, teachers / name / "teacher")
        except (OtherRun, DataError, PackageError) as error:
            raise SystemExit(f"error: {error}") from error
        report["data"][name] = bench.measure()
        show(name, report["data"][name])
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


class Bench:
    """One data set: what trains and what is measured. Raises `OtherRun` where `out` holds another
    bench's networks."""

    def __init__(self, name: str, folder: Path, out: Path, teacher: Path) -> None:
        self.name, self.folder, self.out = name, folder, out
        self.packages = [_package(other) for other in RECIPES if other.startswith(name)]
        self.recipe = RECIPES[f"{name}-medium"]
        self.data = read_image_data(name, folder, self.recipe.held_out)
        rivals = [[family, *sizes] for family, sizes in RIVALS[name].items()]
        wanted = {"recipe": dataclasses.asdict(self.recipe), "rivals": rivals, "tried": TRIED}
        self.run = ImageRun(self.data, self.recipe, out, teacher, _progress)
        claim_folder(out, {**wanted, **self.data.identity})

    def measure(self) -> dict[str, Any]:
        """Rows of the data set, and each family's parameters at our networks' accuracies."""
        self.run.train_teacher()
        networks: dict[tuple[str, str], nn.Module] = {}
        learnt: dict[str, tuple[float, bool]] = {}
        for family, sizes in RIVALS[self.name].items():
            if family in LEARNS_AS:
                learnt[family] = learnt[LEARNS_AS[family]]
            else:
                learnt[family] = self._best_of_tried(family, next(iter(sizes.values())))
            rate, muon = learnt[family]
            schedule = dataclasses.replace(self.recipe.float_schedule, lr=rate, muon=muon)
            for size, make in sizes.items():
                networks[family, size] = self._train(f"{family} {size}", make, schedule)
        torch.set_num_threads(1)
        test = read_images(self.name, self.folder, "test")
        ours = [_ours(package, test) for package in self.packages]
        others = [_rival(key, network, self.data, test) for key, network in networks.items()]
        speed = self._race(ours + others, list(networks.values()), test.images[: max(BATCHES)])
        matched = [row for row in ours if row["size"] != self.name]
        return {
            "origin": test.origin,
            "epochs": self.recipe.float_schedule.epochs,
            "learnt": {key: {"lr": rate, "muon": muon} for key, (rate, muon) in learnt.items()},
            "rows": ours + others,
            "matched": [found for row in matched for found in at_our_accuracy(row, others)],
            "notes": disturbances(speed),
        }

    def _best_of_tried(self, family: str, make: Make) -> tuple[float, bool]:
        """The learning rate and optimiser with which the family's smallest learns best, briefly."""
        data = self.data
        few = dataclasses.replace(
            data, images=data.images[:TRIAL_ROWS], labels=data.labels[:TRIAL_ROWS]
        )
        run = ImageRun(few, self.recipe, self.out, self.run.teacher_folder, _progress)
        run.answers = self.run.answers
        found = {}
        for rate, muon in TRIED:
            schedule = dataclasses.replace(
                self.recipe.float_schedule,
                lr=rate,
                muon=muon,
                epochs=TRIAL_EPOCHS,
                evaluate_every=TRIAL_EPOCHS,
            )
            stage = f"trial of {family} at {rate:g} by {'Muon' if muon else 'AdamW'}"
            run.fit(stage, self._made(make), schedule, self.out)
            found[rate, muon] = run.histories[stage][-1]["accuracy"]
        return max(found, key=lambda tried: found[tried])

    def _train(self, stage: str, make: Make, schedule: Schedule) -> nn.Module:
        network = self._made(make)
        self.run.fit(stage, network, schedule, self.out)
        return network.cpu()

    def _made(self, make: Make) -> nn.Module:
        torch.manual_seed(self.recipe.seed)
        return make(DATASETS[self.name].shape, len(self.data.classes))

    def _race(
        self, rows: list[Row], networks: list[nn.Module], images: npt.NDArray[np.uint8]
    ) -> list[Row]:
        """Put each row's latency into it, its fastest contender's; all figures."""
        floats = self.data.normalise(torch.from_numpy(images)).numpy()
        contenders = [[_native(package, images)] for package in self.packages]
        contenders += [onnx_runtime_as_trained(network, floats) for network in networks]
        speed = []
        for batch in BATCHES:
            times = race([one for several in contenders for one in several], batch, 1, ROUNDS)
            speed += times
            left = iter(times)
            for row, several in zip(rows, contenders, strict=True):
                best = min((next(left) for _ in several), key=lambda time: time["latency_us"])
                row[f"latency_us_batch_{batch}"] = best["latency_us"]
                row[f"engine_batch_{batch}"] = f"{best['engine']}, {best['variant']}"
        return speed


def _package(name: str) -> Package:
    """The shipped package; it must have been trained as the recipe of its name says today."""
    package = load_package(ROOT / "models" / name / "1")
    recipe = json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
    if package.provenance["recipe"] != recipe:
        raise SystemExit(
            f"error: models/{name}/1 must be of today's recipe for a fair comparison, but is of "
            "another; train it anew"
        )
    return package


def _progress(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
    scores = " ".join(f"{key} {value:.4g}" for key, value in row.items())
    typer.echo(f"{stage}: {epoch}/{epochs} {scores}", err=True)


def _ours(package: Package, test: ImageSplit) -> Row:
    engine = NativeEngine(package.model, 2)
    outputs = in_batches(lambda part: engine.run(package.encode(part)), test.images)
    engine.close()
    float_accuracy = package.accuracy["float"]["accuracy"]
    row = _row(OURS, package.name, package.model.n_parameters, outputs, test)
    return {**row, "float_accuracy": float_accuracy}


def _rival(key: tuple[str, str], network: nn.Module, data: ImageData, test: ImageSplit) -> Row:
    with torch.inference_mode():
        outputs = in_batches(
            lambda part: network(data.normalise(torch.from_numpy(part))).numpy(), test.images
        )
    row = _row(*key, count_parameters(network), outputs, test)
    return {**row, "float_accuracy": row["accuracy"]}


def _row(
    family: str, size: str, parameters: int, outputs: npt.NDArray[Any], test: ImageSplit
) -> Row:
    accuracy = float((outputs.argmax(1) == test.labels).mean())
    return {
        "family": family,
        "size": size,
        "parameters": parameters,
        "int8_bytes": parameters,
        "accuracy": accuracy,
        "standard_error": round(standard_error(accuracy, len(test)), 4),
    }


def _native(package: Package, images: npt.NDArray[np.uint8]) -> Contender:
    engine, frames = NativeEngine(package.model, 1), package.encode(images)
    return Contender("native", "INT8", lambda batch: engine.run(frames[:batch]))


def show(name: str, report: dict[str, Any]) -> None:
    """Both tables on the terminal."""
    console = Console()
    table = Table(title=f"{DATASETS[name].title}, test split (measured; {report['origin']})")
    for head in ("family", "size", "parameters", "INT8 bytes", "accuracy", "in float"):
        table.add_column(head)
    for batch in BATCHES:
        table.add_column(f"us, batch {batch}", justify="right")
    for row in report["rows"]:
        cells = [row["family"], row["size"], f"{row['parameters']:,}", f"{row['int8_bytes']:,}"]
        cells += [f"{row['accuracy']:.4f}", f"{row['float_accuracy']:.4f}"]
        table.add_row(*cells, *(f"{row[f'latency_us_batch_{batch}']:,.0f}" for batch in BATCHES))
    console.print(table)
    heads = ("ours", "accuracy", "family", "parameters", "times ours", "within a standard error")
    table = Table(*heads, title="At our accuracy, of the sizes tried")
    for row in report["matched"]:
        count = f"{row['bound'].replace('_', ' ')} {row['parameters']:,}"
        cells = [row["ours"], f"{row['accuracy']:.4f}", row["family"], count]
        low, high = row["times_ours_between"]
        table.add_row(*cells, f"{row['times_ours']:g}", f"{low:g} to {high:g}")
    console.print(table)
    for note in report["notes"]:
        console.print(note)


if __name__ == "__main__":
    typer.run(main)
