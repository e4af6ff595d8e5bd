"""A board for verification: what the kernel says, be it outputs or a tapped stage's integers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from emamba.engines import EngineInfo, EngineStatus, Recorded
from emamba.fixed.mirror import check_batch
from emamba_service.board.board import Board, Loadable

__all__ = ["BareBoard"]


class BareBoard:
    """One model on a board with nobody beside it: no guard, and nobody who answers in its place.

    It is no `Engine`: an engine's integers are outputs, int16 (n, n_outputs), and these are those
    of `loadable.answer`, int16 (n, elements).
    """

    def __init__(
        self, board: Board, loadable: Loadable, info: EngineInfo, on_close: Callable[[], None]
    ) -> None:
        self._board = board
        self._loadable = loadable
        self._info = info
        self._on_close = on_close

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def status(self) -> EngineStatus:
        return self._board.status

    def record(self, batch: npt.NDArray[np.int8]) -> Recorded:
        """The kernel's integers, checked by nothing but the checksums of its transfers.

        Raises `EngineUnavailableError` while the board is out of use.
        """
        check_batch(batch, self._loadable.model.config)
        result = self._board.infer(self._loadable, batch, lambda integers: None)
        return Recorded(result.outputs, self._info.name, result.stages_s)

    def close(self) -> None:
        """Give the board back."""
        self._on_close()
