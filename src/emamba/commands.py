"""What the `emamba` command does: train, evaluate, compare, inspect, export, build."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID
from rich.table import Table

from emamba import __version__
from emamba.data import DATASETS, DataError
from emamba.engines import EngineError, open_engine
from emamba.evaluate import Labelled, in_batches, read_labelled, report_on
from emamba.export import export_hls
from emamba.export.image import ImageError
from emamba.export.pipeline import TapError
from emamba.export.presets import PresetError
from emamba.fixed import interval_bounds
from emamba.fixed.model import activation_widths
from emamba.overlay import ManifestError, OverlayError, ReportError, build_overlay
from emamba.package import Package, PackageError, load_package

if TYPE_CHECKING:
    from emamba.train.checkpoint import Checkpoint
    from emamba.train.loop import Progress

__all__ = ["app", "run"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
train_app = typer.Typer(no_args_is_help=True, help="Train a float network and its integer package.")
search_app = typer.Typer(no_args_is_help=True, help="Search for sizes under a parameter budget.")
package_app = typer.Typer(no_args_is_help=True, help="Look into model packages.")
export_app = typer.Typer(no_args_is_help=True, help="Write what is built from a package.")
build_app = typer.Typer(no_args_is_help=True, help="Build engines of a package.")
app.add_typer(train_app, name="train")
app.add_typer(search_app, name="search")
app.add_typer(package_app, name="package")
app.add_typer(export_app, name="export")
app.add_typer(build_app, name="build")

DataFolder = Annotated[
    Path, typer.Option("--data", help="MARS as cloned (feature/*.npy) or as mars_<split>.npz.")
]
ImageFolder = Annotated[
    Path, typer.Option("--data", help="Folder with the data set's files, as downloaded.")
]
AnyFolder = Annotated[
    Path, typer.Option("--data", help="Folder of the model's data set: MARS or images.")
]
_Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of every random choice.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, alone on stdout.")]


_BUILD_ERRORS = (PresetError, TapError, ImageError, OverlayError, ReportError, ManifestError)


class UserError(Exception):
    """Something the caller can mend; shown as one line."""


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    """Mamba models as float network, integer mirror and model package: the same numbers."""
    if version:
        typer.echo(f"emamba {__version__}")
        raise typer.Exit


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="A package folder or a float .safetensors.")],
    data: AnyFolder,
    engine: Annotated[
        str, typer.Option(help="Engine of a package; a checkpoint's is `float`.")
    ] = "auto",
    split: Annotated[str, typer.Option(help="train, test or, of MARS, validate.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Accuracy in the data set's own metric: errors of poses, `accuracy` (0..1) of images."""
    if split not in ("train", "validate", "test"):
        raise UserError(f"--split must be train, validate or test, not {split!r}")
    report = (
        _evaluate_package(model, data, engine, split)
        if model.is_dir()
        else _evaluate_checkpoint(model, data, engine, split)
    )
    if as_json:
        typer.echo(json.dumps(report, allow_nan=False))
    elif "accuracy" in report:
        _print_classes(report)
    else:
        _print_report(report)


def _evaluate_package(folder: Path, data: Path, engine: str, split: str) -> dict[str, Any]:
    package = load_package(folder)
    frames = read_labelled(package.task, data, split)
    running = open_engine(engine, package.model)
    started = time.perf_counter()
    answers = in_batches(lambda part: running.run(package.encode(part)), frames.inputs)
    seconds = time.perf_counter() - started
    running.close()
    return {
        **report_on(package.decode(answers), frames),
        "parameters": package.model.n_parameters,
        "int8_bytes": package.model.int8_bytes,
        "engine": running.info.name,
        "package": f"{package.name}/{package.version}",
        "package_sha256": package.sha256,
        **_about(split, frames, seconds),
    }


def _evaluate_checkpoint(path: Path, data: Path, engine: str, split: str) -> dict[str, Any]:
    if engine not in ("auto", "float"):
        raise UserError(f"the engine of a float checkpoint is float, not {engine!r}")
    _need_torch()
    from emamba.model import count_parameters  # noqa: PLC0415 - torch only where it is needed
    from emamba.train.predict import predict  # noqa: PLC0415

    checkpoint = _load_checkpoint(path)
    frames = read_labelled(checkpoint.task, data, split)
    started = time.perf_counter()
    answers = predict(checkpoint.network, checkpoint.task, frames.inputs)
    seconds = time.perf_counter() - started
    return {
        **report_on(answers, frames),
        "parameters": count_parameters(checkpoint.network),
        "int8_bytes": None,
        "engine": "float",
        "package": None,
        "package_sha256": None,
        "checkpoint_sha256": checkpoint.sha256,
        **_about(split, frames, seconds),
    }


@app.command()
def compare(
    checkpoint: Annotated[Path, typer.Argument(help="Float .safetensors.")],
    package: Annotated[Path, typer.Argument(help="Package folder made from it.")],
    data: AnyFolder,
    frames: Annotated[int, typer.Option(min=1, help="Test frames, evenly taken.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Error of the integer twin against its float network, stage by stage."""
    _need_torch()
    from emamba.quantise import compare_stages  # noqa: PLC0415

    loaded = load_package(package)
    float_twin = _load_checkpoint(checkpoint)
    if float_twin.sha256 != loaded.provenance.get("float_sha256"):
        raise UserError(
            f"{package} must have been made from {checkpoint}, but its provenance has another "
            "float_sha256; give the float.safetensors of its own run"
        )
    test = read_labelled(loaded.task, data, "test").inputs
    chosen = test[:: max(1, len(test) // frames)][:frames]
    inputs = loaded.task.encode(chosen)
    errors = compare_stages(float_twin.network, loaded.model, inputs)
    if as_json:
        rows = [dataclasses.asdict(error) for error in errors]
        typer.echo(json.dumps({"frames": len(chosen), "stages": rows}, allow_nan=False))
        return
    table = Table("stage", "format", "relative error", "saturated", title="Mirror against float")
    for error in errors:
        share = f"{100 * error.saturated:.3f} %"
        table.add_row(error.stage, error.format, f"{100 * error.relative_error:.2f} %", share)
    Console().print(table)


def _about(split: str, frames: Labelled, seconds: float) -> dict[str, Any]:
    return {
        "split": split,
        "data": frames.origin,
        "data_sha256": frames.sha256,
        "obtained": "measured",
        "frames_per_s": round(len(frames) / seconds, 1),
    }


def _print_head(console: Console, report: dict[str, Any]) -> None:
    console.print(
        f"{report['package'] or 'float checkpoint'} · engine {report['engine']} · "
        f"{report['frames']} frames of {report['split']} · {report['data']}"
    )
    size = "" if report["int8_bytes"] is None else f" · {report['int8_bytes']} INT8 bytes"
    console.print(f"{report['parameters']} parameters{size}")


def _print_classes(report: dict[str, Any]) -> None:
    console = Console()
    _print_head(console, report)
    console.print(
        f"accuracy {report['accuracy']:.4f} · expected calibration error "
        f"{report['calibration_error']:.4f} (measured)"
    )
    table = Table("class", "accuracy", "taken most often for", title="By class (measured)")
    table.columns[1].justify = "right"
    names = report["classes"]
    for name, share in report["per_class"].items():
        number = names.index(name)
        row = list(report["confusion"][number])
        row[number] = -1
        other = int(np.argmax(row))
        table.add_row(name, f"{share:.4f}", f"{names[other]} ({row[other]})")
    console.print(table)


def _print_report(report: dict[str, Any]) -> None:
    console = Console()
    _print_head(console, report)
    table = Table("", "MAE (cm)", "RMSE (cm)", title="Errors (measured)")
    table.columns[1].justify = table.columns[2].justify = "right"
    _add_row(table, "all", report)
    for group in ("axis", "subject", "movement", "joint"):
        table.add_section()
        for name, errors in report[f"per_{group}"].items():
            _add_row(table, f"{group} {name}", errors)
    console.print(table)


def _add_row(table: Table, name: str, errors: dict[str, float]) -> None:
    table.add_row(name, f"{errors['mae_cm']:.2f}", f"{errors['rmse_cm']:.2f}")


@train_app.command("mars")
def train_mars_command(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Folder of this run; a second call resumes it.")] = Path(
        "runs/mars"
    ),
    version: Annotated[str, typer.Option("--model-version", help="Version of the package.")] = "1",
    seed: _Seed = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train MARS from data to package: teachers, float network, fitted tables, integers."""
    _need_torch()
    import torch  # noqa: PLC0415

    from emamba.train.mars import MarsRecipe, train_mars  # noqa: PLC0415

    torch.set_num_threads(threads)
    with _resumable(out), ProgressDisplay() as progress:
        record = train_mars(data, out, version, MarsRecipe(seed=seed), progress)
    console = Console()
    table = Table("", "MAE (cm)", "RMSE (cm)", title="Held-out blocks of validate (measured)")
    for name, errors in record["held_out"].items():
        _add_row(table, name, errors)
    console.print(table)
    table = Table("", "MAE (cm)", "RMSE (cm)", title=f"Test, {record['test']['frames']} frames")
    for name in ("float", "mirror"):
        _add_row(table, name, record["test"][name])
    console.print(table)
    package = out / "packages" / "mars" / version
    console.print(f"package: {package}")
    _build_ahead(package)


def _train_images(
    dataset: str, data: Path, out: Path, model: str, version: str, seed: int, threads: int
) -> None:
    """Train one of a data set's models from data to package."""
    _need_torch()
    import torch  # noqa: PLC0415

    from emamba.train.image_recipes import RECIPES  # noqa: PLC0415
    from emamba.train.images import train_images  # noqa: PLC0415

    names = [name for name, recipe in RECIPES.items() if recipe.dataset == dataset]
    if model not in names:
        raise UserError(f"--model must be one of {', '.join(names)}, not {model!r}")
    recipe = dataclasses.replace(RECIPES[model], seed=seed)
    torch.set_num_threads(threads)
    with _resumable(out), ProgressDisplay() as progress:
        record = train_images(data, out, model, version, recipe, progress)
    table = Table("", "accuracy", title="Held-out training images (measured)")
    for name, row in record["held_out"].items():
        table.add_row(name, f"{row['accuracy']:.4f}")
    Console().print(table)
    table = Table("", "accuracy", "calibration error", title=f"Test, {record['test']['frames']}")
    for name in ("float", "mirror"):
        row = record["test"][name]
        table.add_row(name, f"{row['accuracy']:.4f}", f"{row['calibration_error']:.4f}")
    Console().print(table)
    package = out / "packages" / model / version
    Console().print(f"package: {package}")
    _build_ahead(package)


_Model = Annotated[
    str, typer.Option(help="Which size: the data set's name, or that with -medium or -small.")
]
_Version = Annotated[str, typer.Option("--model-version", help="Version of the package.")]
_Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
_Out = Annotated[Path, typer.Option(help="Folder of the runs; a second call resumes.")]


@train_app.command("fashion-mnist")
def train_fashion_mnist_command(
    data: ImageFolder,
    out: _Out = Path("runs/fashion-mnist"),
    model: _Model = "fashion-mnist",
    version: _Version = "1",
    seed: _Seed = 0,
    threads: _Threads = 2,
) -> None:
    """Train Fashion-MNIST from data to package: teacher, float network, tables, integers."""
    _train_images("fashion-mnist", data, out, model, version, seed, threads)


@train_app.command("cifar10")
def train_cifar10_command(
    data: ImageFolder,
    out: _Out = Path("runs/cifar10"),
    model: _Model = "cifar10",
    version: _Version = "1",
    seed: _Seed = 0,
    threads: _Threads = 2,
) -> None:
    """Train CIFAR-10 from data to package: teacher, float network, tables, integers."""
    _train_images("cifar10", data, out, model, version, seed, threads)


def _build_ahead(folder: Path) -> None:
    """Compiles a new package's engine now, so that the first to serve it need not wait."""
    try:
        engine = open_engine("native", load_package(folder).model)
    except EngineError as error:
        typer.echo(f"no native engine here: {error}", err=True)
        return
    typer.echo(f"native engine: {engine.info.description}", err=True)
    engine.close()


@app.command()
def ablate(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Folder of the runs; a second call resumes.")] = Path(
        "runs/ablate"
    ),
    epochs: Annotated[int, typer.Option(min=1, help="Epochs each norm trains.")] = 20,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Compare range norm with LayerNorm and RMSNorm on MARS at equal budgets."""
    _need_torch()
    import torch  # noqa: PLC0415

    from emamba.train.ablate import compare_norms  # noqa: PLC0415
    from emamba.train.mars import MarsRecipe  # noqa: PLC0415
    from emamba.train.mars_data import read_training_data  # noqa: PLC0415

    torch.set_num_threads(threads)
    with _resumable(out), ProgressDisplay() as progress:
        found = compare_norms(read_training_data(data), MarsRecipe(), epochs, out, progress)
    table = Table("norm", "MAE (cm)", "RMSE (cm)", title="Held-out blocks of validate (measured)")
    for name, errors in found.items():
        _add_row(table, name, errors)
    Console().print(table)


@app.command()
def study(
    dataset: Annotated[str, typer.Argument(help="fashion-mnist or cifar10.")],
    data: ImageFolder,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs; runs/study-DATASET if not given.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs each variant trains.")] = 4,
    rows: Annotated[int, typer.Option(min=1, help="Training images it sees.")] = 20_000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Compare token orders, patch sizes, positions and heads on images, after equal epochs."""
    _need_torch()
    import torch  # noqa: PLC0415

    from emamba.train.image_recipes import RECIPES  # noqa: PLC0415
    from emamba.train.image_study import study_images  # noqa: PLC0415
    from emamba.train.images_data import read_image_data  # noqa: PLC0415

    if dataset not in DATASETS:
        raise UserError(f"the data set must be one of {', '.join(DATASETS)}, not {dataset!r}")
    recipe = RECIPES[dataset]
    schedule = dataclasses.replace(recipe.float_schedule, epochs=epochs, evaluate_every=epochs)
    recipe = dataclasses.replace(recipe, float_schedule=schedule)
    folder = out or Path(f"runs/study-{dataset}")
    torch.set_num_threads(threads)

    def report(row: dict[str, Any]) -> None:
        typer.echo(f"{row['variant']}: {row['accuracy']:.4f}", err=True)

    with _resumable(folder), ProgressDisplay() as progress:
        images = read_image_data(dataset, data, recipe.held_out)
        found = study_images(images, recipe, rows, folder, progress, report)
    if as_json:
        typer.echo(json.dumps({"epochs": epochs, "rows": rows, "variants": found}))
        return
    table = Table("variant", "parameters", "accuracy", title="Held-out images (measured)")
    for row in found:
        table.add_row(row["variant"], f"{row['parameters']:,}", f"{row['accuracy']:.4f}")
    Console().print(table)


@search_app.command("mars")
def search_mars_command(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Folder of the study; a second call continues it.")] = (
        Path("runs/search-mars")
    ),
    trials: Annotated[int, typer.Option(min=1, help="Candidates to try.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs a candidate trains.")] = 8,
    parameters: Annotated[int, typer.Option(help="Largest candidate, in parameters.")] = 17_229,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Try sizes within a budget, each judged by its integers on the held-out blocks."""
    _need_torch()
    import torch  # noqa: PLC0415

    from emamba.search.mars import Budget, search_mars  # noqa: PLC0415
    from emamba.train.mars_data import read_training_data  # noqa: PLC0415

    def report(number: int, record: dict[str, Any]) -> None:
        rmse = "over budget" if record["rmse_cm"] is None else f"{record['rmse_cm']:.3f} cm"
        typer.echo(f"trial {number}: {record['parameters']} parameters, {rmse}", err=True)

    torch.set_num_threads(threads)
    with _resumable(out), ProgressDisplay() as progress:
        budget = Budget(trials, epochs, parameters)
        found = search_mars(read_training_data(data), out, budget, progress, report)
    if not found:
        raise UserError(f"no candidate had at most {parameters} parameters; raise --parameters")
    table = Table(
        "RMSE (cm)", "parameters", "sizes", title="Held-out error of the mirror (measured)"
    )
    for record in found[:10]:
        sizes = ", ".join(f"{k} {v}" for k, v in record["config"].items() if "input" not in k)
        table.add_row(f"{record['rmse_cm']:.3f}", str(record["parameters"]), sizes)
    Console().print(table)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Says after Ctrl-C how to go on."""
    from emamba.train.checkpoint import CheckpointError  # noqa: PLC0415
    from emamba.train.record import OtherRun  # noqa: PLC0415

    try:
        yield
    except (OtherRun, CheckpointError) as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        typer.echo(f"interrupted; the same command goes on with {out}", err=True)
        raise typer.Exit(130) from None


class ProgressDisplay:
    """Bars on a terminal, elsewhere a line an epoch."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._bars = Bars(console=Console(stderr=True))
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bars.start()
        return self._report

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:
            self._bars.stop()

    def _report(self, stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
        seconds = time.monotonic() - self._started
        scores = " ".join(f"{k} {v:.5g}" for k, v in row.items() if k not in ("epoch", "seconds"))
        if not sys.stderr.isatty():
            typer.echo(f"{seconds:7.0f} s  {stage} {epoch}/{epochs}  {scores}", err=True)
            return
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=epochs)
        self._bars.update(self._tasks[stage], completed=epoch, description=f"{stage}: {scores}")


@package_app.command()
def inspect(
    folder: Annotated[Path, typer.Argument(help="Package folder, e.g. models/mars/1.")],
    as_json: AsJson = False,
) -> None:
    """Show a package readably: sizes, formats, accumulator bounds, accuracy, provenance."""
    package = load_package(folder)
    if as_json:
        typer.echo(json.dumps(_describe(package), allow_nan=False))
        return
    console = Console()
    about = _describe(package)
    console.print(f"[bold]{package.name}/{package.version}[/bold]  sha256 {package.sha256}")
    for key in ("config_hash", "parameters", "int8_bytes", "task"):
        console.print(f"{key}: {about[key]}")
    console.print("config: " + ", ".join(f"{k} {v}" for k, v in about["config"].items()))
    for key in ("accuracy", "provenance"):
        console.print(f"{key}: {json.dumps(about[key], indent=1)}", highlight=False)
    console.print(_tensor_table(package))
    console.print(_bound_table(package))


def _describe(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "package_sha256": package.sha256,
        "config": package.model.config.to_json(),
        "config_hash": package.model.config_hash,
        "parameters": package.model.n_parameters,
        "int8_bytes": package.model.int8_bytes,
        "task": package.task.kind,
        "formats": {name: str(fmt) for name, fmt in package.model.formats.items()},
        "accumulators": {
            bound.stage: {"bits": bound.bits, "width": bound.width}
            for bound in interval_bounds(package.model)
        },
        "accuracy": package.accuracy,
        "provenance": package.provenance,
    }


def _tensor_table(package: Package) -> Table:
    table = Table("name", "format", "shape", "range", title="Tensors and activations")
    for name, tensor in package.model.tensors.items():
        shape = "x".join(map(str, tensor.shape))
        spread = f"{int(np.min(tensor))}..{int(np.max(tensor))}"
        table.add_row(name, str(package.model.formats[name]), shape, spread)
    table.add_section()
    for name in activation_widths(package.model.config):
        table.add_row(name, str(package.model.formats[name]), "", "")
    return table


def _bound_table(package: Package) -> Table:
    table = Table("accumulator", "bits needed", "bits wired", title="Overflow proof (intervals)")
    for bound in interval_bounds(package.model):
        table.add_row(bound.stage, str(bound.bits), str(bound.width))
    return table


@export_app.command("hls")
def export_hls_command(
    folder: Annotated[Path, typer.Argument(help="Package folder, e.g. models/mars/1.")],
    preset: Annotated[str, typer.Option(help="How much works at once: fast or small.")] = "fast",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; hls/generated/NAME-PRESET if not given.")
    ] = None,
    tap: Annotated[
        str | None, typer.Option(help="Answer with this stream's tokens, e.g. u_0: for debugging.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a kernel's sources, weights image and golden vectors; the C++ needs nothing else."""
    package = load_package(folder)
    target = out or Path("hls") / "generated" / f"{package.name}-{preset}"
    record = export_hls(package, preset, target, tap)
    if as_json:
        typer.echo(json.dumps(record, allow_nan=False))
        return
    console = Console()
    modelled = record["modelled"]
    console.print(f"{target}: {', '.join([*record['files'], 'export.json'])}")
    console.print(
        f"modelled at {modelled['clock_hz'] / 1e6:.0f} MHz: a frame every "
        f"{modelled['interval_cycles']} cycles, {modelled['latency_cycles']} cycles through"
    )
    table = Table("resource", "modelled", "of a ZCU102", title=f"preset {preset}")
    for name, count in modelled["resources"].items():
        table.add_row(name, f"{count:g}", f"{modelled['shares'][name]:.1%}")
    console.print(table)


@build_app.command("overlay")
def build_overlay_command(
    folder: Annotated[Path, typer.Argument(help="Package folder, e.g. models/mars/1.")],
    preset: Annotated[str, typer.Option(help="How much works at once: fast or small.")] = "fast",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to build in; build/overlay-NAME-PRESET[-TAP] if not given."),
    ] = None,
    tap: Annotated[
        str | None, typer.Option(help="Answer with this stream's tokens, e.g. u_0: for debugging.")
    ] = None,
) -> None:
    """Build the ZCU102 bitstream with Vitis HLS and Vivado; a second call goes on."""
    package = load_package(folder)
    suffix = "" if tap is None else f"-{tap}"
    target = out or Path("build") / f"overlay-{package.name}-{preset}{suffix}"
    typer.echo(f"overlay: {build_overlay(package, preset, target, tap=tap)}")


@build_app.command("native")
def build_native_command(
    folder: Annotated[Path, typer.Argument(help="Package folder, e.g. models/mars/1.")],
) -> None:
    """Compile the native engine for this machine now, and check it against the mirror."""
    engine = open_engine("native", load_package(folder).model)
    typer.echo(f"native: {engine.info.description}; equals the mirror")
    engine.close()


def _load_checkpoint(path: Path) -> Checkpoint:
    from emamba.train.checkpoint import CheckpointError, load_checkpoint  # noqa: PLC0415

    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        raise UserError(str(error)) from error


def _need_torch() -> None:
    try:
        import torch  # noqa: F401, PLC0415
    except ImportError as error:
        raise UserError(
            "this needs the [train] extra: run `make train-env`, "
            "or pip install -e '.[train]' in the checkout"
        ) from error


def run() -> None:
    """Run the command; what the caller can mend is one line on stderr and exit code 1."""
    command: Callable[[], None] = app
    try:
        command()
    except (UserError, DataError, PackageError, EngineError, *_BUILD_ERRORS) as error:
        typer.echo(f"emamba: {error}", err=True)
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"emamba: {where}{error.strerror or error}", err=True)
        sys.exit(1)
