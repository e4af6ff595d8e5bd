"""Our image networks beside a CNN, a vision transformer and an MLP-Mixer: same data, same recipe.

    .venv/bin/python -m bench.images --data DIR --out runs/rivals --json docs/results/images.json

Every rival trains as our medium network of the data set does: its epochs, changes and teacher, in
float; it is resumable. Ours are the shipped packages, judged as integers. "INT8 bytes" counts a
byte a parameter. Latency is one thread's: ours the native engine, rivals ONNX Runtime FP32, all in
turns. Accuracy is that of the test split. It is matched to our small and medium networks; our large
one learns longer than rivals may.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from bench.engines import machine, race
from bench.image_rivals import Mixer, ResNet, VisionTransformer
from bench.opponents import Contender, export, session_runner
from rich.console import Console
from rich.table import Table
from torch import nn

from emamba.data import DATASETS, ImageSplit, read_images
from emamba.engines import NativeEngine
from emamba.evaluate import in_batches
from emamba.model import count_parameters
from emamba.package import Package, load_package
from emamba.train.image_recipes import RECIPES
from emamba.train.images import ImageRecipe, ImageRun
from emamba.train.images_data import ImageData, read_image_data

ROOT = Path(__file__).resolve().parents[1]
BATCHES = (1, 64)
ROUNDS = 9
OURS = "eMamba"
Row = dict[str, Any]
Make = Callable[[tuple[int, int, int], int], nn.Module]


def _cnn(blocks: int, width: int) -> Make:
    return lambda shape, outputs: ResNet(shape[2], outputs, blocks, width)


def _vit(width: int, depth: int) -> Make:
    return lambda shape, outputs: VisionTransformer(shape, outputs, width, depth)


def _mixer(width: int, depth: int) -> Make:
    return lambda shape, outputs: Mixer(shape, outputs, width, depth)


# By family and size: several of each, so that accuracy can be matched between them.
RIVALS: dict[str, dict[str, dict[str, Make]]] = {
    "fashion-mnist": {
        "CNN": {"ResNet-8, width 4": _cnn(1, 4), "ResNet-8, width 8": _cnn(1, 8)},
        "ViT": {"24 x 3": _vit(24, 3), "32 x 4": _vit(32, 4), "48 x 4": _vit(48, 4)},
        "MLP-Mixer": {"24 x 3": _mixer(24, 3), "48 x 4": _mixer(48, 4)},
    },
    "cifar10": {
        "CNN": {"ResNet-8, width 8": _cnn(1, 8), "ResNet-8, width 16": _cnn(1, 16)},
        "ViT": {"32 x 4": _vit(32, 4), "48 x 4": _vit(48, 4), "64 x 6": _vit(64, 6)},
        "MLP-Mixer": {"32 x 4": _mixer(32, 4), "64 x 4": _mixer(64, 4)},
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
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of training.")] = 2,
) -> None:
    """Train rivals, measure all, and say what equal accuracy costs each family."""
    report: dict[str, Any] = {"obtained": "measured", "machine": machine(), "data": {}}
    for name in DATASETS:
        torch.set_num_threads(threads)
        report["data"][name] = compare(name, data, out / name, teachers / name / "teacher")
        show(name, report["data"][name])
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")


def compare(name: str, data_folder: Path, out: Path, teacher: Path) -> dict[str, Any]:
    """Rows of one data set, and each family's parameters at our networks' accuracies."""
    data = read_image_data(name, data_folder, _recipe(name).held_out)
    test = read_images(name, data_folder, "test")
    networks = {
        (family, size): _train(name, data, out, teacher, f"{family} {size}", make)
        for family, sizes in RIVALS[name].items()
        for size, make in sizes.items()
    }
    torch.set_num_threads(1)
    rows = [_rival(key, network, data, test) for key, network in networks.items()]
    folders = [ROOT / "models" / other / "1" for other in RECIPES if name in other]
    packages = [load_package(folder) for folder in folders if folder.exists()]
    rows = [_ours(package, test) for package in packages] + rows
    contenders = _contenders(packages, networks, data, test.images[: max(BATCHES)])
    for batch in BATCHES:
        for row, time in zip(rows, race(contenders, batch, 1, ROUNDS), strict=True):
            row[f"latency_us_batch_{batch}"] = time["latency_us"]
    return {"origin": test.origin, "rows": rows, "matched": matched(rows, name)}


def _recipe(name: str) -> ImageRecipe:
    return RECIPES[f"{name}-medium"]


def _train(
    name: str, data: ImageData, out: Path, teacher: Path, stage: str, make: Make
) -> nn.Module:
    recipe = _recipe(name)
    run = ImageRun(data, recipe, out, teacher, _progress)
    run.train_teacher()
    torch.manual_seed(recipe.seed)
    network = make(DATASETS[name].shape, len(data.classes))
    run.fit(stage, network, recipe.float_schedule, out)
    return network.cpu()


def _progress(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
    scores = " ".join(f"{key} {value:.4g}" for key, value in row.items())
    typer.echo(f"{stage}: {epoch}/{epochs} {scores}", err=True)


def _ours(package: Package, test: ImageSplit) -> Row:
    engine = NativeEngine(package.model, 2)
    outputs = in_batches(lambda part: engine.run(package.encode(part)), test.images)
    engine.close()
    return {
        "family": OURS,
        "size": package.name,
        "parameters": package.model.n_parameters,
        "int8_bytes": package.model.int8_bytes,
        "accuracy": _accuracy(outputs, test),
    }


def _rival(key: tuple[str, str], network: nn.Module, data: ImageData, test: ImageSplit) -> Row:
    with torch.inference_mode():
        outputs = in_batches(
            lambda part: network(data.normalise(torch.from_numpy(part))).numpy(), test.images
        )
    parameters = count_parameters(network)
    return {
        "family": key[0],
        "size": key[1],
        "parameters": parameters,
        "int8_bytes": parameters,
        "accuracy": _accuracy(outputs, test),
    }


def _accuracy(outputs: npt.NDArray[Any], test: ImageSplit) -> float:
    return float((outputs.argmax(1) == test.labels).mean())


def _contenders(
    packages: list[Package],
    networks: dict[tuple[str, str], nn.Module],
    data: ImageData,
    images: npt.NDArray[np.uint8],
) -> list[Contender]:
    """What takes turns: frames as each takes them, quantised or normalised beforehand."""
    contenders = []
    for package in packages:
        engine, frames = NativeEngine(package.model, 1), package.encode(images)
        contenders.append(
            Contender("native", "INT8", lambda n, e=engine, f=frames: e.run(f[:n]))  # type: ignore[misc]
        )
    floats = data.normalise(torch.from_numpy(images)).numpy()
    with tempfile.TemporaryDirectory() as folder:
        for number, network in enumerate(networks.values()):
            path = Path(folder) / f"{number}.onnx"
            export(network, floats[:8], path)
            runner = session_runner(path, floats, 1)
            contenders.append(Contender("ONNX Runtime FP32", "as trained", runner))
    return contenders


def matched(rows: list[Row], name: str) -> list[Row]:
    """For our small and medium networks of data set `name`, each family's parameters at their
    accuracy.

    Between two sizes of a family the logarithm of parameters is taken as linear in accuracy; beyond
    its sizes only a bound is known: `at_least` or `at_most`.
    """
    found = []
    for ours in (row for row in rows if row["family"] == OURS and row["size"] != name):
        for family in dict.fromkeys(row["family"] for row in rows if row["family"] != OURS):
            sizes = sorted(
                (row["accuracy"], row["parameters"]) for row in rows if row["family"] == family
            )
            accuracies, parameters = (np.array(column) for column in zip(*sizes, strict=True))
            wanted = ours["accuracy"]
            bound = (
                "at_least"
                if wanted > accuracies[-1]
                else "at_most"
                if wanted < accuracies[0]
                else "about"
            )
            count = float(np.exp(np.interp(wanted, accuracies, np.log(parameters))))
            found.append(
                {
                    "ours": ours["size"],
                    "accuracy": wanted,
                    "family": family,
                    "bound": bound,
                    "parameters": round(count),
                    "times_ours": round(count / ours["parameters"], 2),
                }
            )
    return found


def show(name: str, report: dict[str, Any]) -> None:
    """Both tables on the terminal."""
    console = Console()
    table = Table(title=f"{DATASETS[name].title}, test split (measured; {report['origin']})")
    for head in ("family", "size", "parameters", "INT8 bytes", "accuracy"):
        table.add_column(head)
    for batch in BATCHES:
        table.add_column(f"us, batch {batch}", justify="right")
    for row in report["rows"]:
        cells = [row["family"], row["size"], f"{row['parameters']:,}", f"{row['int8_bytes']:,}"]
        cells.append(f"{row['accuracy']:.4f}")
        table.add_row(*cells, *(f"{row[f'latency_us_batch_{batch}']:,.0f}" for batch in BATCHES))
    console.print(table)
    table = Table("ours", "accuracy", "family", "parameters", "times ours", title="At our accuracy")
    for row in report["matched"]:
        count = f"{row['bound'].replace('_', ' ')} {row['parameters']:,}"
        cells = [row["ours"], f"{row['accuracy']:.4f}", row["family"], count]
        table.add_row(*cells, f"{row['times_ours']:g}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
