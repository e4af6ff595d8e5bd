"""Engines that drive a board, guarded and with someone to answer in its place."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

from emamba.engines import (
    Engine,
    EngineInfo,
    EngineStatus,
    EngineUnavailableError,
    Recorded,
)
from emamba.fixed.mirror import check_batch
from emamba_service.board.board import Board, Loadable
from emamba_service.board.ports import BoardFault

__all__ = ["BoardEngine", "Guard"]

Guard = Literal["every", "canary", "none"]


class BoardEngine:
    """One model on a board. `deputy` computes the same integers on this machine's CPU.

    `guard` says what an answer must pass, the checksums of its transfers apart: `every` compares it
    with the deputy's, computed while the board computes; `canary` sends a frame of known outputs
    along; `none` is none. With `falls_back` the deputy answers where the board cannot.
    """

    def __init__(
        self,
        board: Board,
        loadable: Loadable,
        info: EngineInfo,
        deputy: Engine,
        *,
        guard: Guard = "every",
        falls_back: bool = True,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._board = board
        self._loadable = loadable
        self._info = info
        self._deputy = deputy
        self._guard = guard
        self._falls_back = falls_back
        self._on_close = on_close

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def status(self) -> EngineStatus:
        """`degraded` where the deputy answers in the board's place."""
        status = self._board.status
        if status.state == "ready" or not self._falls_back:
            return status
        name = self._deputy.info.name
        return EngineStatus("degraded", f"{name} answers in its place: {status.reason}")

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        return self.record(batch).outputs

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        check_batch(batch, self._loadable.model.config)
        try:
            return self._on_board(batch)
        except EngineUnavailableError:
            if not self._falls_back:
                raise
            return self._deputy.record(batch)

    def close(self) -> None:
        self._deputy.close()
        self._on_close()

    def _on_board(self, batch: npt.NDArray[np.int8]) -> Recorded:
        if self._guard == "every":
            return self._beside_deputy(batch)
        if self._guard == "canary":
            return self._with_canary(batch)
        result = self._board.infer(self._loadable, batch, lambda outputs: None)
        return Recorded(result.outputs, self._info.name, result.stages_s)

    def _beside_deputy(self, batch: npt.NDArray[np.int8]) -> Recorded:
        expected: list[npt.NDArray[np.int16]] = []
        guard_s = 0.0

        def compute() -> None:
            nonlocal guard_s
            # A second attempt has its expectation already.
            if expected:
                return
            begin = time.perf_counter()
            expected.append(self._deputy.run(batch))
            guard_s = time.perf_counter() - begin

        def check(outputs: npt.NDArray[np.int16]) -> None:
            compute()
            _compare(outputs, expected[0], self._deputy.info.name)

        result = self._board.infer(self._loadable, batch, check, meanwhile=compute)
        return Recorded(result.outputs, self._info.name, result.stages_s | {"guard": guard_s})

    def _with_canary(self, batch: npt.NDArray[np.int8]) -> Recorded:
        canary, known = self._loadable.frames[-1:], self._loadable.expected[-1:]
        result = self._board.infer(
            self._loadable,
            np.concatenate([batch, canary]),
            lambda outputs: _compare(outputs[-1:], known, "mirror"),
        )
        return Recorded(result.outputs[:-1], self._info.name, result.stages_s)


def _compare(
    outputs: npt.NDArray[np.int16], expected: npt.NDArray[np.int16], reference: str
) -> None:
    different = np.argwhere(outputs != expected)
    if len(different):
        frame, output = different[0].tolist()
        raise BoardFault(
            "wrong-answer",
            f"output {output} of frame {frame} must be {reference}'s {expected[frame, output]}, "
            f"but is {outputs[frame, output]}",
        )
