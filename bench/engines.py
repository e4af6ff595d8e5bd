"""Speed of our engines beside PyTorch and ONNX Runtime: one model, one run, the same real frames.

    .venv/bin/python -m bench.engines --json engines.json --plot engines.png

Engines take turns, round by round; a figure is the median over the rounds, in steady state, from
an engine's own encoded input to its own outputs. Rounds disturbed by other processes are repeated,
as far as that helps. Of each opponent's variants the fastest at that batch and thread count is
shown; `--json` has them all. Figures are measured on this machine.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Annotated, Any

# Before NumPy starts its thread pool: the mirror is measured on one thread.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console
from rich.table import Table

from emamba.engines import Engine, EngineError, NativeEngine, open_engine
from emamba.evaluate import pose_errors
from emamba.native import Compiler, NativeError
from emamba.package import Package, PackageError, load_package
from emamba.tasks import PoseTask
from emamba.tasks.mars import JOINTS, feature_maps

try:
    from bench.opponents import Contender, MismatchError, onnx_runtime, pytorch
    from matplotlib.figure import Figure

    from emamba.train.checkpoint import CheckpointError, load_checkpoint
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error.name} is missing; install what is measured: make train-env, "
        "then .venv/bin/pip install -r requirements-bench.txt"
    ) from error

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "client" / "emamba_client" / "samples" / "mars_sample.npz"
BATCHES = (1, 8, 64, 256)
THREADS = [1, 2]
PAUSE_S = 0.005
WARM_UP_S = 0.05
TURN_S = 0.02
# Rounds beside busier processes are repeated, until three times as many as asked have run.
QUIET_CORES = 0.1
FAILURES = (CheckpointError, EngineError, MismatchError, NativeError, PackageError)
Row = dict[str, Any]


def main(
    package: Annotated[Path, typer.Argument(help="Package folder.")] = ROOT / "models/mars/1",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Float twin; by default float.safetensors in the package.")
    ] = None,
    threads: Annotated[list[int], typer.Option(min=1, help="Thread counts.")] = THREADS,
    rounds: Annotated[int, typer.Option(min=3, help="Interleaved rounds.")] = 15,
    compiled: Annotated[bool, typer.Option(help="With torch.compile, which takes minutes.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Write a PNG.")] = None,
) -> None:
    """Measure latency by engine, batch size and thread count."""
    try:
        report = measure(
            package, checkpoint or package / "float.safetensors", threads, rounds, compiled
        )
    except FAILURES as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    show(report, Console())
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=1) + "\n")
    if plot_file is not None:
        plot(report, plot_file)


def measure(
    folder: Path, checkpoint: Path, threads: list[int], rounds: int, compiled: bool
) -> dict[str, Any]:
    """Everything measured, as `--json` writes it."""
    quieten()
    package, network = load_package(folder), load_checkpoint(checkpoint).network
    maps, labels_m = _sample()
    assert isinstance(package.task, PoseTask)
    floats = package.task.encode(maps).astype(np.float32)
    speed: list[Row] = []
    accuracy: dict[tuple[str, str], Row] = {}
    notes: list[str] = []
    for count in threads:
        ours = _ours(package, package.encode(maps), count)
        torches, left_out = pytorch(network, floats, BATCHES, count, compiled)
        contenders = [*ours, *torches, *onnx_runtime(network, floats, count)]
        notes += [f"threads {count}: {note}" for note in left_out]
        accuracy |= {(c.engine, c.variant): _accuracy(c, package, labels_m) for c in contenders}
        for batch in BATCHES:
            speed += race(contenders, batch, count, rounds)
    return {
        "obtained": "measured",
        "machine": machine(),
        "package": {"name": package.name, "version": package.version, "sha256": package.sha256},
        "rounds": rounds,
        "speed": speed,
        "accuracy": list(accuracy.values()),
        "notes": notes + disturbances(speed),
    }


def quieten() -> None:
    """Exporters and quantisers advise at length; what they make is checked here."""
    warnings.filterwarnings("ignore", module=r"torch\.|bench\.")
    logging.getLogger().setLevel(logging.ERROR)


def _sample() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Feature maps (256, 8, 8, 5) of the client's 240 frames, the first again, and their joints.

    Joints are (256, 19, 3) in metres.
    """
    with np.load(SAMPLE) as sample:
        frames = np.split(sample["points"], np.cumsum(sample["counts"])[:-1])
        labels = sample["labels"].reshape(-1, 3, len(JOINTS)).transpose(0, 2, 1)
    chosen = np.arange(max(BATCHES)) % len(frames)
    return feature_maps(list(frames))[chosen], labels[chosen]


def _ours(package: Package, frames: npt.NDArray[np.int8], threads: int) -> list[Contender]:
    """`native`, and on one thread `mirror`; raises `MismatchError` if their bits differ."""
    native, mirror = NativeEngine(package.model, threads), open_engine("mirror", package.model)
    if not np.array_equal(native.run(frames), mirror.run(frames)):
        raise MismatchError("native: outputs must equal the mirror's, but do not")
    engines: list[Engine] = [native, mirror] if threads == 1 else [native]
    return [_integer_contender(engine, frames) for engine in engines]


def _integer_contender(engine: Engine, frames: npt.NDArray[np.int8]) -> Contender:
    return Contender(engine.info.name, "INT8", lambda batch: engine.run(frames[:batch]))


def _accuracy(contender: Contender, package: Package, labels_m: npt.NDArray[np.float32]) -> Row:
    """Errors over the sample frames in centimetres."""
    outputs = contender.run(len(labels_m))
    decode = package.decode if outputs.dtype == np.int16 else package.task.decode
    errors = pose_errors(decode(outputs) - labels_m)
    return {"engine": contender.engine, "variant": contender.variant, **errors}


def race(contenders: list[Contender], batch: int, threads: int, rounds: int) -> list[Row]:
    """One row a contender, with the median time of one call over the quietest rounds."""
    tried: list[tuple[float, list[float]]] = []
    while sum(others <= QUIET_CORES for others, _ in tried) < rounds and len(tried) < 3 * rounds:
        tried.append(_round(contenders, batch))
    chosen = sorted(tried)[:rounds]
    medians_s = np.median([times_s for _, times_s in chosen], axis=0)
    return [
        {
            "threads": threads,
            "batch": batch,
            "engine": contender.engine,
            "variant": contender.variant,
            "latency_us": round(1e6 * float(median_s), 1),
            "latency_us_per_frame": round(1e6 * float(median_s) / batch, 2),
            "cores_used_by_others": round(chosen[-1][0], 2),
        }
        for contender, median_s in zip(contenders, medians_s, strict=True)
    ]


def _round(contenders: list[Contender], batch: int) -> tuple[float, list[float]]:
    """Cores that other processes used meanwhile, and each contender's seconds for one call."""
    started, others_s = time.perf_counter(), _others_cpu_s()
    times_s = [_turn(contender, batch) for contender in contenders]
    return (_others_cpu_s() - others_s) / (time.perf_counter() - started), times_s


def disturbances(speed: list[Row]) -> list[str]:
    """A note for each race that found no quiet rounds."""
    races = {(r["threads"], r["batch"]): r["cores_used_by_others"] for r in speed}
    return [
        f"threads {threads}, batch {batch}: not to be quoted, other processes used {cores} cores; "
        "measure again when the machine is quiet"
        for (threads, batch), cores in races.items()
        if cores > QUIET_CORES
    ]


def _others_cpu_s() -> float:
    """Processor seconds that all other processes have used since the machine started."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, *interrupts_and_stolen = ticks[:8]
    busy = user + nice + system + sum(interrupts_and_stolen)
    return busy / os.sysconf("SC_CLK_TCK") - time.process_time()


def _turn(contender: Contender, batch: int) -> float:
    """Mean seconds of one call, once the engine's threads are awake and spread over the cores."""
    _settle()
    _repeat(contender, batch, WARM_UP_S)
    return _repeat(contender, batch, TURN_S)


def _repeat(contender: Contender, batch: int, at_least_s: float) -> float:
    """Mean seconds of one call, over as many as take `at_least_s`."""
    calls, elapsed_s = 0, 0.0
    started = time.perf_counter()
    while elapsed_s < at_least_s:
        contender.run(batch)
        calls += 1
        elapsed_s = time.perf_counter() - started
    return elapsed_s / calls


def _settle() -> None:
    """Wait while threads of this process are busy: those of a pool spin on after its engine's turn.

    ONNX Runtime's do so for tens of milliseconds, on a core that the next engine needs.
    """
    busy_s = PAUSE_S
    while busy_s > 0.05 * PAUSE_S:
        before_s = time.process_time()
        time.sleep(PAUSE_S)
        busy_s = time.process_time() - before_s


def machine() -> dict[str, Any]:
    """The processor and the versions that figures hold for."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    packages = ("torch", "onnxruntime", "onnx", "numpy")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
        "native_compiler": Compiler.find().version,
    }


def show(report: dict[str, Any], console: Console) -> None:
    """Print speed, accuracy, notes and the machine."""
    rows = _fastest(report["speed"])
    for threads in dict.fromkeys(row["threads"] for row in rows):
        console.print(_speed_table([row for row in rows if row["threads"] == threads], threads))
    table = Table("engine", "variant", "MAE (cm)", "RMSE (cm)", title="Error on the sample frames")
    for row in report["accuracy"]:
        errors = (f"{row['mae_cm']:.3f}", f"{row['rmse_cm']:.3f}")
        table.add_row(row["engine"], row["variant"], *errors)
    console.print(table)
    for note in report["notes"]:
        console.print(note)
    console.print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))


def _speed_table(rows: list[Row], threads: int) -> Table:
    columns = ("batch", "engine", "us", "us/frame", "frames/s", "time / native's", "variant")
    table = Table(*columns, title=f"Threads: {threads}")
    batch = rows[0]["batch"]
    for row in rows:
        if row["batch"] != batch:
            table.add_section()
            batch = row["batch"]
        ratio = row["ratio_to_native"]
        table.add_row(
            str(batch),
            row["engine"],
            f"{row['latency_us']:,.0f}",
            f"{row['latency_us_per_frame']:,.1f}",
            f"{1e6 / row['latency_us_per_frame']:,.0f}",
            "-" if ratio is None else f"{ratio:.2f}",
            row["variant"],
        )
    return table


def _fastest(speed: list[Row]) -> list[Row]:
    """The fastest variant of each engine at each thread count and batch, beside native's time."""
    best: dict[tuple[int, int, str], Row] = {}
    for row in speed:
        key = (row["threads"], row["batch"], row["engine"])
        if key not in best or row["latency_us"] < best[key]["latency_us"]:
            best[key] = row
    rows = []
    for (threads, batch, _), row in best.items():
        native = best.get((threads, batch, "native"))
        ratio = None if native is None else round(row["latency_us"] / native["latency_us"], 2)
        rows.append({**row, "ratio_to_native": ratio})
    return rows


def plot(report: dict[str, Any], path: Path) -> None:
    """Latency per frame by batch size, one panel a thread count, fastest variants only."""
    rows = _fastest(report["speed"])
    counts = sorted({row["threads"] for row in rows})
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    figure = Figure(figsize=(5.2 * len(counts), 4.6), layout="constrained")
    panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    for panel, count in zip(panels, counts, strict=True):
        for engine in engines:
            own = [row for row in rows if (row["threads"], row["engine"]) == (count, engine)]
            latency = [row["latency_us_per_frame"] for row in own]
            panel.plot([row["batch"] for row in own], latency, "o-", label=engine)
        panel.set(xscale="log", yscale="log", xlabel="batch (frames)", xticks=BATCHES)
        panel.set_xticklabels(BATCHES)
        panel.minorticks_off()
        panel.set_title(f"{count} thread{'s' if count > 1 else ''}")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("latency per frame (us)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    machine = report["machine"]
    figure.suptitle(f"Measured on {machine['cpu']}, {machine['cores']} cores", fontsize=10)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    typer.run(main)
