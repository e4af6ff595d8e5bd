"""`emamba-service reproduce`: try a mismatch of a shadow check again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import numpy as np
import numpy.typing as npt
import typer

from emamba.engines import Engine, EngineError, MirrorEngine
from emamba.package import Package, PackageError
from emamba_service.board.bare import BareBoard
from emamba_service.board.engines import open_bare_for
from emamba_service.models import load_version
from emamba_service.options import fail, with_settings
from emamba_service.settings import Settings, SettingsError, load_settings
from emamba_service.shadow_files import Reproducer, ReproducerError

__all__ = ["reproduce"]

_SHOWN = 10
_DIFFERS, _USAGE, _STOPPED = 1, 2, 3
_WIDTH = 16


@with_settings
def reproduce(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A mismatch that a shadow check has kept.")],
    runs: Annotated[int, typer.Option(min=1, help="How often to run the engine.")] = 1,
    **given: Optional[str],  # noqa: UP045 - evaluated by Typer
) -> None:
    """Run a mismatch's engine and the mirror again, and say which bits differ today.

    Without --engine it is the one that computed the answer. Guard and fallback are off, and a board
    opens even if its golden frames come out wrong, so that the bits are its own. Exit code: 0 where
    every run agrees with the mirror, 1 where one differs, 2 for wrong usage, a wrong setting or
    what cannot be read, 3 where the engine does not open or fails.
    """
    try:
        reproducer = Reproducer.load(file)
        settings = _settings(context, given, reproducer)
        about = reproducer.about
        package = load_version(settings.models, about["model"], about["version"])
        _check_shape(file, reproducer, package)
        engine = open_bare_for(settings)(settings.engine, package.model)
    except (SettingsError, ReproducerError, PackageError) as error:
        fail(str(error), _USAGE)
    except EngineError as error:
        fail(str(error), _STOPPED)
    try:
        differs = _compare(reproducer, package, engine, runs)
    except EngineError as error:
        fail(f"engine {engine.info.name}: {error}", _STOPPED)
    finally:
        engine.close()
    if differs:
        raise typer.Exit(_DIFFERS)


def _settings(
    context: typer.Context, given: dict[str, str | None], reproducer: Reproducer
) -> Settings:
    texts = {key: text for key, text in given.items() if text is not None}
    source = context.get_parameter_source("engine")
    # The environment's is the service's choice for serving.
    if source is None or source.name != "COMMANDLINE":
        texts["engine"] = reproducer.about["engine"]
    return load_settings(texts | {"guard": "none", "fallback": "none"})


def _check_shape(file: Path, reproducer: Reproducer, package: Package) -> None:
    config = package.model.config
    came = (reproducer.batch.shape[1:], reproducer.expected.shape[1])
    if came != (config.input_shape, config.n_outputs):
        raise ReproducerError(
            f"{file}: input {came[0]} and {came[1]} outputs must be those of "
            f"{package.name} {package.version}, {config.input_shape} and {config.n_outputs}; "
            "name the folder of its package with --models"
        )


def _compare(
    reproducer: Reproducer, package: Package, engine: Engine | BareBoard, runs: int
) -> bool:
    """Print what each run gives; whether one of them differs from the mirror."""
    about = reproducer.about
    typer.echo(
        f"{about['model']} {about['version']}, found {about['time']} on engine {about['engine']} "
        f"by emamba-service {about['service']}"
    )
    if about["package_sha256"] != package.sha256:
        typer.echo(
            f"package: {package.sha256[:12]} is another than that of then, "
            f"{about['package_sha256'][:12]}"
        )
    show = partial(_show, package)
    show("then", reproducer.expected, reproducer.got)
    expected = MirrorEngine(package.model).run(reproducer.batch)
    if np.array_equal(expected, reproducer.expected):
        typer.echo("mirror today: gives what it gave then")
    else:
        show("mirror today, beside then", reproducer.expected, expected)
    typer.echo(f"engine {engine.info.name}: {engine.info.description}")
    differing = 0
    for run in range(runs):
        got = engine.record(reproducer.batch).outputs
        differing += show(f"run {run + 1} of {runs}", expected, got)
    outcome = "differs from the mirror" if differing else "gives the mirror's integers"
    typer.echo(
        f"engine {engine.info.name} {outcome} in {differing or runs} of {runs} "
        f"{'run' if runs == 1 else 'runs'} today"
    )
    return differing > 0


def _show(
    package: Package, what: str, expected: npt.NDArray[np.int16], got: npt.NDArray[np.int16]
) -> bool:
    """Print where and in which bits two outputs differ; whether they do."""
    places = np.argwhere(expected != got)
    if not len(places):
        typer.echo(f"{what}: no output differs")
        return False
    bits = np.bitwise_or.reduce((expected ^ got).ravel())
    frames = len(np.unique(places[:, 0]))
    typer.echo(
        f"{what}: {len(places)} of {expected.size} outputs differ, in {frames} of "
        f"{len(expected)} frames; {_bits(int(bits))}"
    )
    for frame, output in places[:_SHOWN].tolist():
        must, came = int(expected[frame, output]), int(got[frame, output])
        name = package.task.output_name(output)
        typer.echo(
            f"  frame {frame}, output {output} ({name}): must be {must}, is {came}; "
            f"{_bits(must ^ came)}"
        )
    if len(places) > _SHOWN:
        typer.echo(f"  and {len(places) - _SHOWN} more")
    return True


def _bits(differing: int) -> str:
    numbers = [str(bit) for bit in range(_WIDTH) if differing >> bit & 1]
    return f"{'bit' if len(numbers) == 1 else 'bits'} {', '.join(numbers)}"
