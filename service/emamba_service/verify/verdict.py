"""Runs a verification from frames to report."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import emamba
import emamba_service
from emamba.data import MarsSplit
from emamba.evaluate import Labelled, report_on
from emamba.fixed import IntegerModel, Mirror
from emamba.package import Package
from emamba_service.board.answer import Answer
from emamba_service.verify.compare import answers_of, compare
from emamba_service.verify.energy import PowerMeter, measure_energy, not_measured
from emamba_service.verify.frames import FrameSet
from emamba_service.verify.journal import Chunk, Journal
from emamba_service.verify.localise import OpenTapped, localise
from emamba_service.verify.page import html_page
from emamba_service.verify.schema import (
    SCHEMA_VERSION,
    Accuracy,
    Classes,
    Comparison,
    Data,
    Energy,
    EngineRan,
    PackageRan,
    PoseErrors,
    Ran,
    Report,
    Speed,
    Temperatures,
)
from emamba_service.verify.speed import batch_of, measure_speed
from emamba_service.verify.streaming import (
    EngineStoppedError,
    Progress,
    Subject,
    UnderTest,
    stream,
)

__all__ = ["Bench", "Request", "verify", "write_report"]

_NO_OUTPUTS = "the kernel answers with a stage, not with outputs"


@dataclass(frozen=True)
class Request:
    """What to verify. With `out`, chunks are kept there and an interrupted run goes on.

    `tap` names the stream that the engine answers with, None if that is outputs; `hint` says how to
    find the stage that differs.
    """

    package: Package
    engine: str
    frames: FrameSet
    batch: int = 256
    out: Path | None = None
    speed_s: float = 0.5  # for each batch size
    energy_window_s: float = 20.0
    engine_options: Mapping[str, str] = field(default_factory=dict)
    tap: str | None = None
    hint: str = ""

    @property
    def answer(self) -> Answer:
        """What comes of each frame."""
        return Answer.of(self.package.model.config, self.tap)


@dataclass(frozen=True)
class Bench:
    """The world around a verification.

    With `open_tapped`, the first stage that differs is looked for. `no_power` says why there is no
    `meter`; `temperatures` reads degrees Celsius by sensor, `faults` counts what the engine noticed
    so far, by kind.
    """

    open_engine: Callable[[str, IntegerModel], UnderTest]
    progress: Progress
    open_tapped: OpenTapped | None = None
    meter: PowerMeter | None = None
    no_power: str = "no power rails found"
    temperatures: Callable[[], Mapping[str, float]] = dict
    faults: Callable[[], Mapping[str, int]] = dict
    now: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    sleep: Callable[[float], None] = time.sleep


@dataclass
class _Run:
    """One start of a verification, with its engine open."""

    request: Request
    bench: Bench
    subject: Subject
    stops: list[str] = field(default_factory=list)

    def stream(self, chunks: list[Chunk], keep: Callable[[Chunk], None]) -> None:
        """Run the frames after `chunks`, adding to them."""

        def keep_both(chunk: Chunk) -> None:
            keep(chunk)
            chunks.append(chunk)

        begin = chunks[-1].stop if chunks else 0
        reference = partial(self.request.answer.expected, Mirror(self.request.package.model))
        batch = self.request.frames.batch
        try:
            stream(
                batch,
                self.request.batch,
                begin,
                self.subject,
                reference,
                keep_both,
                self.bench.progress,
            )
        except EngineStoppedError as error:
            done = chunks[-1].stop if chunks else 0
            frames = f"{done:,} of {len(batch):,} frames"
            self.stops.append(f"engine {self.subject.name} stopped after {frames}: {error}")

    def speed(self) -> Speed:
        """Latency and throughput; nothing of an engine that has stopped, or of a tapped one."""
        if self.request.tap is not None:
            return Speed(rows=[], obtained={}, reason=_NO_OUTPUTS)
        if self.stops:
            return Speed(rows=[], obtained={}, reason="the engine stopped before")
        request = self.request
        speed = measure_speed(
            self.subject, request.frames.batch, request.speed_s, self.bench.progress
        )
        self.stops += [speed.reason] if speed.reason else []
        return speed

    def energy(self) -> Energy:
        """Energy of an inference; nothing without a meter, and as `speed`."""
        window_s, meter = self.request.energy_window_s, self.bench.meter
        if self.request.tap is not None:
            return not_measured(_NO_OUTPUTS, window_s)
        if meter is None:
            return not_measured(self.bench.no_power, window_s)
        if self.stops:
            return not_measured("the engine stopped before", window_s)
        batch = batch_of(self.request.frames.batch, self.request.batch)
        try:
            return measure_energy(self.subject, batch, meter, window_s, self.bench.progress)
        except EngineStoppedError as error:
            reason = f"engine {self.subject.name} stopped under load: {error}"
            self.stops.append(reason)
            return not_measured(reason, window_s)

    def temperatures(self) -> dict[str, float]:
        """Degrees Celsius by sensor, to a tenth."""
        return {name: round(value, 1) for name, value in self.bench.temperatures().items()}


def verify(request: Request, bench: Bench) -> Report:
    """Compare, measure and report; with `request.out`, also write the report there.

    Raises `EngineError` if the engine does not open and `JournalError` if `out` holds another run.
    A `KeyboardInterrupt` leaves every completed chunk in `out`.
    """
    with closing(bench.open_engine(request.engine, request.package.model)) as engine:
        run = _Run(request, bench, Subject(engine, bench.sleep))
        started = bench.now().isoformat(timespec="seconds")
        with _journal(request, engine, started) as journal:
            chunks = list(journal.chunks) if journal else []
            resumed = chunks[-1].stop if chunks else 0
            start_c = run.temperatures()
            run.stream(chunks, journal.append if journal else _keep_nothing)
            report = _report(run, chunks, resumed, start_c, journal.started if journal else started)
            if request.out is not None and journal is not None:
                write_report(report, request.out)
                if not run.stops:
                    journal.finish()
            return report


def write_report(report: Report, folder: Path) -> None:
    """`report.json` and `report.html` in `folder`, each whole or as it was before."""
    texts = {
        "report.json": report.model_dump_json(indent=1) + "\n",
        "report.html": html_page(report),
    }
    for name, text in texts.items():
        unfinished = folder / f".{name}.new"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / name)


def _keep_nothing(_: Chunk) -> None:
    """For a run without a folder."""


@contextmanager
def _journal(request: Request, engine: UnderTest, started: str) -> Iterator[Journal | None]:
    if request.out is None:
        yield None
        return
    elements = request.answer.elements
    with closing(Journal(request.out, _fingerprint(request, engine), elements, started)) as journal:
        yield journal


def _fingerprint(request: Request, engine: UnderTest) -> dict[str, Any]:
    """What must be the same for chunks of two starts to belong to one run."""
    return {
        "package": request.package.sha256,
        "engine": engine.info.name,
        "engine_description": engine.info.description,
        "engine_options": dict(request.engine_options),
        "tap": request.tap,
        "frames": request.frames.batch_sha256,
        "source": request.frames.source,
        "batch": request.batch,
        "versions": _versions(),
    }


def _report(
    run: _Run, chunks: list[Chunk], resumed: int, start_c: dict[str, float], started: str
) -> Report:
    request = run.request
    subject = None if run.stops else run.subject
    comparison = compare(chunks, request.frames, request.answer, subject, request.hint)
    accuracy = _accuracy(request, chunks, comparison)
    speed = run.speed()
    energy = run.energy()
    temperatures = Temperatures(start=start_c, end=run.temperatures())
    verdict, code = _verdict(comparison, run.stops)
    comparison = _localised(run, comparison)
    return Report(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        exit_code=code,
        summary=_summary(request, comparison, run.stops),
        comparison=comparison,
        accuracy=accuracy,
        speed=speed,
        energy=energy,
        temperatures_c=temperatures,
        ran=_ran(run, started, resumed),
        obtained=_obtained(run, accuracy, speed, energy, temperatures),
    )


def _localised(run: _Run, comparison: Comparison) -> Comparison:
    """Last of all: taps need boards of their own, configured one after the other."""
    request, bench = run.request, run.bench
    if bench.open_tapped is None or not comparison.first:
        return comparison
    return localise(
        comparison,
        request.frames,
        request.package.model,
        bench.open_tapped,
        bench.sleep,
        bench.progress,
    )


def _verdict(
    comparison: Comparison, stops: list[str]
) -> tuple[Literal["equal", "different", "incomplete"], Literal[0, 1, 3]]:
    """A difference stays one, however the run went on."""
    if comparison.mismatches or comparison.missing:
        return "different", 1
    return ("incomplete", 3) if stops else ("equal", 0)


def _summary(request: Request, comparison: Comparison, stops: list[str]) -> str:
    c = comparison
    mirror = "the mirror" + ("" if request.tap is None else f" in stage {request.answer.stage}")
    if c.mismatches or c.missing:
        text = f"{c.mismatches:,} of {c.compared:,} compared frames differ from {mirror}"
        text += f"; {c.missing:,} frames are missing" if c.missing else ""
    elif c.not_run:
        text = f"{c.compared:,} of {c.frames:,} frames equal {mirror}, the others were not run"
    else:
        text = f"all {c.frames:,} frames equal {mirror}, bit for bit"
    return "; ".join([text[0].upper() + text[1:], *stops]) + "."


def _accuracy(request: Request, chunks: list[Chunk], comparison: Comparison) -> Accuracy:
    labels = request.frames.labels
    if request.tap is not None:
        return Accuracy(engine=None, mirror=None, reason=_NO_OUTPUTS)
    if labels is None:
        return Accuracy(engine=None, mirror=None, reason="the frames have no labels")
    if comparison.not_run:
        reason = f"only {len(labels) - comparison.not_run} of {len(labels)} frames were run"
        return Accuracy(engine=None, mirror=None, reason=reason)
    decode = request.package.decode
    got, expected = answers_of(chunks, request.answer)
    mirror = _worth(decode(expected), labels)
    if comparison.missing:
        reason = f"{comparison.missing} of the engine's answers are missing"
        return Accuracy(engine=None, mirror=mirror, reason=reason)
    return Accuracy(engine=_worth(decode(got), labels), mirror=mirror, reason="")


def _worth(answers: npt.NDArray[np.float64], labels: Labelled) -> PoseErrors | Classes:
    report = _rounded(report_on(answers, labels))
    if isinstance(labels, MarsSplit):
        return PoseErrors.model_validate(report)
    return Classes.model_validate({name: report[name] for name in Classes.model_fields})


def _metric(labels: Labelled | None) -> str:
    if isinstance(labels, MarsSplit):
        return "per coordinate over all frames, averaged over coordinates"
    return "share of images whose likeliest class is their label"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _ran(run: _Run, started: str, resumed: int) -> Ran:
    request, engine = run.request, run.subject.engine
    package, frames, status = request.package, request.frames, engine.status
    return Ran(
        package=PackageRan(
            name=package.name,
            version=package.version,
            sha256=package.sha256,
            config_hash=package.model.config_hash,
        ),
        engine=EngineRan(
            name=engine.info.name,
            description=engine.info.description,
            state=status.state,
            reason=status.reason,
            options=dict(request.engine_options),
            faults=dict(run.bench.faults()),
        ),
        data=Data(
            source=frames.source,
            origin=frames.origin,
            sha256=frames.sha256,
            batch_sha256=frames.batch_sha256,
        ),
        batch=request.batch,
        versions=_versions(),
        host=_host(),
        started=started,
        ended=run.bench.now().isoformat(timespec="seconds"),
        resumed_frames=resumed,
    )


def _versions() -> dict[str, str]:
    return {
        "emamba": emamba.__version__,
        "emamba-service": emamba_service.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _host() -> dict[str, str]:
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processors": str(os.cpu_count() or 1),
    }


def _obtained(
    run: _Run, accuracy: Accuracy, speed: Speed, energy: Energy, temperatures: Temperatures
) -> dict[str, str]:
    request = run.request
    window = f"{request.energy_window_s:g} s"
    what = "outputs" if request.tap is None else f"integers of stage {request.answer.stage}"
    emulated = "; of an emulated board on this CPU, not of a board"
    measured = {
        "comparison": f"the engine's int16 {what} against the NumPy mirror's, bit for bit",
        "accuracy": f"{_metric(request.frames.labels)}; {request.frames.origin}",
        "speed": f"one call after the other, {request.speed_s:g} s for each batch size after one "
        "call to warm up" + (emulated if run.subject.name == "emulator" else ""),
        "energy": f"mean power of rails over {window} under load, less that of {window} idle, "
        "divided by frames a second",
        "temperatures_c": "sensors of the board",
    }
    absent = {
        "accuracy": "" if accuracy.mirror else accuracy.reason,
        "speed": "" if speed.rows else speed.reason,
        "energy": energy.reason,
        "temperatures_c": "" if temperatures.start or temperatures.end else "no sensors found",
    }
    return {
        part: f"not measured: {absent[part]}" if absent.get(part) else f"measured: {how}"
        for part, how in measured.items()
    }
