"""`emamba-service verify`: the exit code is the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer
from prometheus_client import CollectorRegistry
from rich.console import Console

from emamba.data import DataError
from emamba.engines import EngineError
from emamba.export.pipeline import TapError, find_tap
from emamba.overlay import (
    BitstreamError,
    HandoffError,
    ManifestError,
    OverlayFolder,
    open_overlay,
)
from emamba.package import Package, PackageError, find_packages, load_package
from emamba_service.board.engines import BOARD_ENGINES, open_bare_for
from emamba_service.options import fail
from emamba_service.settings import Settings, SettingsError, load_settings
from emamba_service.verify.frames import FrameSet, data_set, golden_set, thinned
from emamba_service.verify.journal import JournalError
from emamba_service.verify.localise import OpenTapped, how_to_localise
from emamba_service.verify.schema import Report
from emamba_service.verify.sensors import open_sensors
from emamba_service.verify.terminal import ProgressDisplay, print_report
from emamba_service.verify.verdict import Bench, Request, verify

__all__ = ["verify_command"]

_USAGE, _STOPPED, _INTERRUPTED = 2, 3, 130
_SPLITS = ("train", "validate", "test")
_MOST_BATCH = 4096

Text = Optional[str]  # noqa: UP045 - evaluated by Typer
Folder = Optional[Path]  # noqa: UP045
Number = Optional[int]  # noqa: UP045


def verify_command(
    engine: Annotated[Text, typer.Option(help="board, emulator, native, mirror or auto.")] = None,
    models: Annotated[Folder, typer.Option(help="Folder of packages.")] = None,
    model: Annotated[Text, typer.Option(help="Name of the package.")] = None,
    version: Annotated[Text, typer.Option(help="Its version; the latest if not given.")] = None,
    data: Annotated[
        Folder,
        typer.Option(
            help="MARS as cloned or as mars_<split>.npz, or one .npz without labels, or an image "
            "model's data set; the golden vectors if not given."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validate or test.")] = "test",
    out: Annotated[
        Folder, typer.Option(help="Folder of report and journal; an interrupted run goes on.")
    ] = None,
    frames: Annotated[
        Number, typer.Option(min=1, help="Most frames to run, evenly taken; all if not given.")
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, max=_MOST_BATCH, help="Frames of a call of the comparison.")
    ] = 256,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report as JSON, alone on stdout.")
    ] = False,
    overlay: Annotated[Folder, typer.Option(help="Folder of the overlay, for a board.")] = None,
    energy_window: Annotated[
        float, typer.Option(min=1, max=3600, help="Seconds of each power window, idle and loaded.")
    ] = 20.0,
    tap: Annotated[
        Text,
        typer.Option(help="Compare this stream's tokens, e.g. u_0, in place of outputs: emulator."),
    ] = None,
    localise: Annotated[
        bool,
        typer.Option("--localise", help="Find the first stage that differs: emulator."),
    ] = False,
) -> None:
    """Compare an engine with the mirror, bit for bit; the exit code is the verdict.

    0: all frames equal. 1: a frame differs or is missing. 2: wrong usage, a wrong setting or
    unreadable input. 3: the engine failed before the end. 130: interrupted.
    """
    given = {"engine": engine, "models": models, "default_model": model, "overlay": overlay}
    with _refusals(out):
        settings = _settings({k: str(v) for k, v in given.items() if v is not None})
        package = _package(settings, version)
        under_test = _overlay(settings)
        tap = _tap(tap, under_test)
        _check_taps(settings.engine, package, tap, localise)
        preset = under_test.manifest["preset"] if under_test else settings.emulator_preset
        request = Request(
            package=package,
            engine=settings.engine,
            frames=_frames(package, data, split, frames),
            batch=batch,
            out=out,
            energy_window_s=energy_window,
            engine_options=_engine_options(settings, tap),
            tap=tap,
            hint=_hint(settings, package, preset, tap),
        )
        opened = _open_tapped(settings, preset, package) if localise else None
        report = _run(request, settings, opened)
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        print_report(report, Console())
        if out is not None:
            typer.echo(f"written: {out / 'report.html'}, {out / 'report.json'}")
    raise typer.Exit(report.exit_code)


@contextmanager
def _refusals(out: Path | None) -> Iterator[None]:
    """What ends the command without a report, each with its exit code."""
    try:
        yield
    except _INPUT_ERRORS as error:
        fail(str(error), _USAGE)
    except OSError as error:
        fail(f"{error.filename or 'the operating system'}: {error.strerror or error}", _USAGE)
    except EngineError as error:
        fail(str(error), _STOPPED)
    except KeyboardInterrupt:
        kept = f"the same command goes on with {out}" if out else "name --out to go on another time"
        fail(f"interrupted; {kept}", _INTERRUPTED)


class _UsageError(Exception):
    """Something that the caller can mend."""


_INPUT_ERRORS = (
    *(SettingsError, PackageError, DataError, JournalError, TapError, _UsageError),
    *(BitstreamError, HandoffError, ManifestError),
)


def _settings(given: dict[str, str]) -> Settings:
    """The settings, but with nobody who could correct the engine under test."""
    return load_settings(given).model_copy(update={"guard": "none", "fallback": "none"})


def _package(settings: Settings, version: str | None) -> Package:
    root, name = settings.models, settings.default_model
    folders = {path.name: path for path in find_packages(root) if path.parent.name == name}
    if not folders:
        raise PackageError(
            root, f"must hold a package {name}/<version>, but holds none; name it with --models"
        )
    if version is not None and version not in folders:
        known = ", ".join(folders)
        raise PackageError(root / name, f"must hold version {version}, but holds {known}")
    return load_package(list(folders.values())[-1] if version is None else folders[version])


def _frames(package: Package, data: Path | None, split: str, most: int | None) -> FrameSet:
    if split not in _SPLITS:
        raise _UsageError(f"--split must be one of {', '.join(_SPLITS)}, not {split!r}")
    found = golden_set(package.model.config) if data is None else data_set(package, data, split)
    if not len(found):
        raise _UsageError(f"{data}: must hold a frame, but holds none")
    return found if most is None else thinned(found, most)


def _overlay(settings: Settings) -> OverlayFolder | None:
    """The overlay under test, where the engine has one and it is named."""
    if settings.overlay is None or settings.engine not in BOARD_ENGINES:
        return None
    return open_overlay(settings.overlay)


def _tap(asked: str | None, overlay: OverlayFolder | None) -> str | None:
    """The stream that the kernel answers with: an overlay's own, or for the emulator any."""
    if overlay is None:
        return asked
    if asked not in (None, overlay.tap):
        raise _UsageError(
            f"--tap must be what {overlay.path} answers with, {overlay.tap or 'outputs'}, not "
            f"{asked}; leave it out, or name another overlay"
        )
    return overlay.tap


def _check_taps(engine: str, package: Package, tap: str | None, localise: bool) -> None:
    if tap is not None:
        find_tap(tap, package.model.config)
    if (tap or localise) and engine not in BOARD_ENGINES:
        raise _UsageError(
            f"--tap and --localise need --engine emulator or board, for {engine} answers with "
            "outputs only"
        )
    if tap and localise:
        raise _UsageError(
            f"--localise must begin with a kernel that answers with outputs, not with {tap}; leave "
            "out --tap, or name an overlay built without it"
        )


def _hint(settings: Settings, package: Package, preset: str, tap: str | None) -> str:
    folder = settings.models / package.name / package.version
    return how_to_localise(settings.engine, folder, preset, package.model.config, tap)


def _open_tapped(settings: Settings, preset: str, package: Package) -> OpenTapped | None:
    """Opens tapped emulators; a board's bitstreams have to be built first, as the report says."""
    if settings.engine != "emulator":
        return None
    own = settings.model_copy(update={"overlay": None, "emulator_preset": preset})
    return lambda tap: open_bare_for(own, tap=tap)("emulator", package.model)


def _engine_options(settings: Settings, tap: str | None) -> dict[str, str]:
    """The settings that decide what a board or its emulator is."""
    if settings.engine not in BOARD_ENGINES:
        return {}
    options = {"transfer_frames": str(settings.transfer_frames)}
    if settings.overlay is not None:
        options["overlay_manifest_sha256"] = _sha256(settings.overlay / "manifest.json")
    if settings.engine == "emulator":
        options["emulator_preset"] = settings.emulator_preset
        options["emulator_faults"] = settings.emulator_faults or "not set"
    if tap is not None:
        options["tap"] = tap
    return options


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _run(request: Request, settings: Settings, open_tapped: OpenTapped | None) -> Report:
    sensors = open_sensors(settings.sysfs, settings.power_interval_s, request.energy_window_s)
    registry = CollectorRegistry()
    with sensors as found, ProgressDisplay(Console(stderr=True)) as progress:
        bench = Bench(
            open_engine=open_bare_for(settings, registry, request.tap),
            progress=progress,
            open_tapped=open_tapped,
            meter=found.meter,
            no_power=found.no_power,
            temperatures=found.temperatures,
            faults=lambda: _faults(registry),
        )
        return verify(request, bench)


def _faults(registry: CollectorRegistry) -> dict[str, int]:
    """The faults that a board's engine has counted, by kind."""
    return {
        sample.labels["kind"]: int(sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "emamba_board_faults_total"
    }
