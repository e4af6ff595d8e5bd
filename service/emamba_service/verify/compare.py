"""Compares what was kept, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emamba.export.pipeline import streams
from emamba.fixed import IntegerModel
from emamba_service.verify.frames import FrameSet
from emamba_service.verify.journal import Chunk
from emamba_service.verify.schema import (
    Comparison,
    Difference,
    DifferenceMap,
    MapCell,
    Problem,
)
from emamba_service.verify.streaming import EngineStoppedError, Subject

__all__ = ["compare", "outputs_of"]

_SHOWN = 5
_COLUMNS = 64

Outputs = npt.NDArray[np.int16]


def outputs_of(chunks: Sequence[Chunk], n_outputs: int) -> tuple[Outputs, Outputs]:
    """The engine's and the mirror's outputs, each (frames, n_outputs)."""
    nothing = np.zeros((0, n_outputs), np.int16)
    got = np.concatenate([nothing, *(chunk.got for chunk in chunks)])
    expected = np.concatenate([nothing, *(chunk.expected for chunk in chunks)])
    return got, expected


def compare(
    chunks: Sequence[Chunk], frames: FrameSet, model: IntegerModel, subject: Subject | None
) -> Comparison:
    """Count, name and map the differences; asks `subject` once more for the first of them."""
    got, expected = outputs_of(chunks, model.config.n_outputs)
    differs = got != expected
    for chunk in chunks:
        if chunk.problem:
            differs[chunk.start : chunk.stop] = False
    wrong = np.flatnonzero(differs.any(1))
    missing = sum(len(chunk) for chunk in chunks if chunk.problem)
    return Comparison(
        frames=len(frames),
        compared=len(got) - missing,
        mismatches=len(wrong),
        missing=missing,
        not_run=len(frames) - len(got),
        retries=sum(chunk.attempts - 1 for chunk in chunks),
        first=[
            _difference(
                int(frames.index[at]),
                got[at],
                expected[at],
                _ask_again(subject, frames.batch[at : at + 1], got[at], expected[at]),
            )
            for at in wrong[:_SHOWN].tolist()
        ],
        problems=[
            Problem(
                first_frame=int(frames.index[chunk.start]),
                frames=len(chunk),
                reason=chunk.problem,
            )
            for chunk in [chunk for chunk in chunks if chunk.problem][:_SHOWN]
        ],
        map=_map(differs) if len(wrong) else None,
        localise=_how_to_localise(model) if len(wrong) else "",
    )


def _difference(frame: int, got: Outputs, expected: Outputs, asked_again: str) -> Difference:
    places = np.flatnonzero(got != expected)
    output = int(places[0])
    return Difference(
        frame=frame,
        stage="output",
        output=output,
        expected=int(expected[output]),
        got=int(got[output]),
        differing_outputs=len(places),
        asked_again=asked_again,
    )


def _ask_again(
    subject: Subject | None, frame: npt.NDArray[np.int8], got: Outputs, expected: Outputs
) -> str:
    """Tells a wrong kernel, which repeats itself, from a disturbed transfer, which does not."""
    if subject is None:
        return "failed"
    try:
        answer = subject.record(frame)
    except EngineStoppedError:
        return "failed"
    if answer.engine != subject.name:
        return "failed"
    again = answer.outputs
    if np.array_equal(again, expected[None]):
        return "right"
    return "same" if np.array_equal(again, got[None]) else "other"


def _map(differs: npt.NDArray[np.bool_]) -> DifferenceMap:
    frames, outputs = differs.shape
    per_column = -(-frames // _COLUMNS)
    columns = -(-frames // per_column)
    padded = np.zeros((columns * per_column, outputs), bool)
    padded[:frames] = differs
    counts = padded.reshape(columns, per_column, outputs).sum(1)
    cells = [
        MapCell(column=column, output=output, frames=int(counts[column, output]))
        for column, output in np.argwhere(counts).tolist()
    ]
    return DifferenceMap(
        frames_per_column=per_column, columns=columns, outputs=outputs, cells=cells
    )


def _how_to_localise(model: IntegerModel) -> str:
    names = [s.name for s in streams(model.config) if s.name not in ("frames", "tokens")]
    return (
        "An engine answers with outputs only. To find the stage, export kernels that answer with "
        "one stream instead (emamba export hls PACKAGE --tap STREAM) and compare their tokens for "
        "these frames with Mirror.trace; the first stream that differs names the stage. Streams "
        f"in order: {', '.join(names)}."
    )
