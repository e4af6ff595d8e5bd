"""Finds the first stage that differs, with kernels that answer with one stage each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from emamba.config import ModelConfig
from emamba.engines import EngineError
from emamba.export.golden import stage_of_stream
from emamba.fixed import IntegerModel, Mirror
from emamba_service.board.answer import Answer
from emamba_service.verify.compare import place_of
from emamba_service.verify.frames import FrameSet
from emamba_service.verify.schema import Comparison, Localised
from emamba_service.verify.streaming import EngineStoppedError, Progress, Subject, UnderTest

__all__ = ["OpenTapped", "how_to_localise", "localise"]

OpenTapped = Callable[[str], UnderTest]
"""Opens the engine under test with a kernel that answers with this stream."""


def localise(
    comparison: Comparison,
    frames: FrameSet,
    model: IntegerModel,
    open_tapped: OpenTapped,
    sleep: Callable[[float], None],
    progress: Progress,
) -> Comparison:
    """`comparison` with the first differing stage of each frame that it shows.

    Streams are asked in pipeline order until one has differed for every frame. A kernel whose
    stages are all right has gone wrong after the last of them, if it goes wrong at all.
    """
    mirror, taps = Mirror(model), _taps(model.config)
    pending = [difference.frame for difference in comparison.first]
    found: dict[int, Localised] = {}
    stopped = ""
    for done, tap in enumerate(taps):
        if not pending or stopped:
            break
        progress("localising", done, len(taps))
        try:
            with closing(open_tapped(tap)) as engine:
                subject = Subject(engine, sleep)
                found |= _differing(subject, tap, frames, pending, mirror)
        except (EngineError, EngineStoppedError) as error:
            stopped = f"The search stopped at stream {tap}: {error}."
        pending = [frame for frame in pending if frame not in found]
    progress("localising", len(taps), len(taps))
    if not stopped:
        found |= _in_outputs(comparison, pending)
    shown = [found[d.frame] for d in comparison.first if d.frame in found]
    left = [str(frame) for frame in pending if frame not in found]
    note = stopped or (
        f"Every stage was right for frame {', '.join(left)}, asked again: look for a transfer, a "
        "clock or a state that did not begin at zero."
        if left
        else ""
    )
    return comparison.model_copy(update={"localised": shown, "localise": note})


def _taps(config: ModelConfig) -> list[str]:
    """The streams that a kernel can answer with, in pipeline order."""
    return [s.name for s, stage in stage_of_stream(config).items() if stage != "output"]


def _differing(
    subject: Subject, tap: str, frames: FrameSet, numbers: Sequence[int], mirror: Mirror
) -> dict[int, Localised]:
    """Those of the frames of these numbers for which the stream is not the mirror's."""
    asked = np.isin(frames.index, numbers)
    batch = frames.batch[asked]
    answer = Answer.of(mirror.model.config, tap)
    got, expected = subject.record(batch).outputs, answer.expected(mirror, batch)
    return {
        number: Localised(
            stream=tap, **place_of(number, answer.stage, got[at], expected[at]).model_dump()
        )
        for at, number in enumerate(frames.index[asked].tolist())
        if not np.array_equal(got[at], expected[at])
    }


def _in_outputs(comparison: Comparison, pending: Sequence[int]) -> dict[int, Localised]:
    """Frames whose outputs alone are wrong, again and again."""
    return {
        d.frame: Localised(stream="output", **d.model_dump(exclude={"asked_again"}))
        for d in comparison.first
        if d.frame in pending and d.asked_again in ("same", "other")
    }


def how_to_localise(
    engine: str, package: Path, preset: str, config: ModelConfig, tap: str | None
) -> str:
    """What to do about a difference in what `engine` answers: outputs, or the stream `tap`."""
    taps = _taps(config)
    if tap is not None:
        before = taps[: taps.index(tap)]
        return (
            f"Streams before {tap}, in order: {', '.join(before) or 'none'}. The first stream that "
            "differs names the stage."
        )
    if engine == "emulator":
        return "To find the stage, run again with --localise."
    if engine == "board":
        return _by_bitstreams(package, preset, taps)
    return (
        f"Engine {engine} answers with outputs only; --engine emulator --localise finds the stage "
        "where the kernel is wrong too."
    )


def _by_bitstreams(package: Path, preset: str, taps: Sequence[str]) -> str:
    every = f"for tap in {' '.join(taps)}; do"
    overlay = f"build/overlay-{package.parent.name}-{preset}-$tap"
    return (
        "To find the stage, build overlays that answer with one stage each, where Vitis HLS and "
        f"Vivado are: {every} emamba build overlay {package} --preset {preset} --tap $tap "
        f"--out {overlay}; done. With these on the board: {every} emamba-service verify "
        f"--engine board --overlay {overlay} || break; done. The first that differs names the "
        "stage. Where building all takes too long, the residual streams alone name the block."
    )
