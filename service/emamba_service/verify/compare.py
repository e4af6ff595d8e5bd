"""Compares what was kept, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from emamba_service.board.answer import Answer
from emamba_service.verify.frames import FrameSet
from emamba_service.verify.journal import Chunk
from emamba_service.verify.schema import (
    Comparison,
    Difference,
    DifferenceMap,
    MapCell,
    Place,
    Problem,
)
from emamba_service.verify.streaming import EngineStoppedError, Subject

__all__ = ["answers_of", "compare", "place_of"]

_SHOWN = 5
_COLUMNS = 64

Integers = npt.NDArray[np.int16]


def answers_of(chunks: Sequence[Chunk], answer: Answer) -> tuple[Integers, Integers]:
    """The engine's and the mirror's integers, each (frames, elements)."""
    nothing = np.zeros((0, answer.elements), np.int16)
    got = np.concatenate([nothing, *(chunk.got for chunk in chunks)])
    expected = np.concatenate([nothing, *(chunk.expected for chunk in chunks)])
    return got, expected


def compare(
    chunks: Sequence[Chunk], frames: FrameSet, answer: Answer, subject: Subject | None, hint: str
) -> Comparison:
    """Count, name and map the differences; asks `subject` once more for the first of them.

    `hint` says how to find the stage that differs.
    """
    got, expected = answers_of(chunks, answer)
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
            Difference(
                **place_of(int(frames.index[at]), answer.stage, got[at], expected[at]).model_dump(),
                asked_again=_ask_again(subject, frames.batch[at : at + 1], got[at], expected[at]),
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
        map=_map(differs) if len(wrong) and answer.stage == "output" else None,
        localised=[],
        localise=hint if len(wrong) else "",
    )


def place_of(frame: int, stage: str, got: Integers, expected: Integers) -> Place:
    """Where two answers to one frame, which differ, differ first."""
    places = np.flatnonzero(got != expected)
    index = int(places[0])
    return Place(
        frame=frame,
        stage=stage,
        index=index,
        expected=int(expected[index]),
        got=int(got[index]),
        differing=len(places),
    )


def _ask_again(
    subject: Subject | None, frame: npt.NDArray[np.int8], got: Integers, expected: Integers
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
