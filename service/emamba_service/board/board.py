"""One board for all models that fit its overlay: weights, faults and how they are mended.

A fault drops what was computed. Then the same frames are tried again, at most twice: after the DMA
has been reset and the weights loaded anew, and after the overlay has been downloaded anew. If that
fails, the board is out of use, and a thread tries a new download from time to time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emamba.engines import EngineStatus, EngineUnavailableError
from emamba.export.golden import golden_frames
from emamba.export.image import image_crc, weights_image
from emamba.fixed import IntegerModel, Mirror
from emamba_service.board.answer import Answer
from emamba_service.board.driver import BoardDriver, Inference
from emamba_service.board.ports import BoardError, BoardFault, Host

__all__ = ["Board", "Check", "Limits", "Loadable"]

_log = logging.getLogger(__name__)

_STARTS = 3
# Faults that another download does not mend.
_LASTING = ("identity", "memory")
# Given outputs of a batch, raises `BoardFault` if they are wrong.
Check = Callable[[npt.NDArray[np.int16]], None]
Report = Callable[[str, str], None]
_Step = tuple[str, Callable[["Loadable"], None]]


@dataclass(frozen=True)
class Limits:
    """`wait_s` bounds the wait for another request's transfers. A failed board is tried again after
    `retry_s`, then after twice that, and so on up to `longest_retry_s`."""

    transfer_frames: int = 256
    timeout_s: float = 0.5
    wait_s: float = 5.0
    retry_s: float = 1.0
    longest_retry_s: float = 60.0


class Loadable:
    """What a board must hold to compute one model, and a test that it does.

    `tap` names the stream that its kernel answers with, None if that is outputs. Unless `tested`, a
    board is used without golden frames having come out right: for a verdict on what it answers.
    """

    def __init__(self, model: IntegerModel, tap: str | None = None, *, tested: bool = True) -> None:
        self.model = model
        self.tap = tap
        self.tested = tested
        self.answer = Answer.of(model.config, tap)
        self.image = weights_image(model)
        self.crc = image_crc(self.image)
        self.frames = golden_frames(model.config)
        self.expected = self.answer.expected(Mirror(model), self.frames)


class Board:
    """Drives one board through `host`; thread-safe. `report(event, what)` tells of every `fault`,
    by kind, and of what `mended` it: `reset`, `reload`, or a `return` to use.

    Raises `BoardError` where the board cannot be configured or is another than `first` needs.
    """

    def __init__(
        self,
        host: Host,
        first: Loadable,
        limits: Limits,
        report: Report = lambda event, what: None,
        name: str = "board",
    ) -> None:
        self._host = host
        self._first = first
        self._limits = limits
        self._report = report
        self._name = name
        self._lock = threading.Lock()
        self._loaded: Loadable | None = None
        self._driver: BoardDriver | None = None
        self._status = EngineStatus()
        self._closing = threading.Event()
        self._mender: threading.Thread | None = None
        self._start(first)

    def _start(self, first: Loadable) -> None:
        """Configure, again after a fault that may pass."""
        for attempt in range(_STARTS):
            try:
                self._configure(first)
            except BoardFault as fault:
                if fault.kind in _LASTING or attempt + 1 == _STARTS:
                    raise BoardError(str(fault)) from fault
                self._note(fault)
            else:
                self._status = EngineStatus()
                return

    @property
    def status(self) -> EngineStatus:
        """`ready`, `recovering` while a fault is being mended, or `failed`."""
        return self._status

    def infer(
        self,
        loadable: Loadable,
        batch: npt.NDArray[np.int8],
        check: Check,
        meanwhile: Callable[[], None] | None = None,
    ) -> Inference:
        """Outputs that `check` lets pass; `meanwhile` runs once while the board computes.

        Raises `EngineUnavailableError` while the board is busy for too long or out of use.
        """
        # A board that is out of use is not waited for, even while someone tries to mend it.
        self._check_in_use()
        if not self._lock.acquire(timeout=self._limits.wait_s):
            raise EngineUnavailableError(
                f"the board must be free within {self._limits.wait_s:g} s, but is not; try again"
            )
        try:
            self._check_in_use()
            return self._infer_mending(loadable, batch, check, meanwhile)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Stop mending and give the host back."""
        self._closing.set()
        if self._mender is not None:
            self._mender.join()
        with self._lock:
            self._driver = None
            self._status = EngineStatus("failed", "the board must be open, but has been closed")
            self._host.close()

    def _check_in_use(self) -> None:
        status = self._status
        if status.state == "failed":
            raise EngineUnavailableError(status.reason)

    def _infer_mending(
        self,
        loadable: Loadable,
        batch: npt.NDArray[np.int8],
        check: Check,
        meanwhile: Callable[[], None] | None,
    ) -> Inference:
        steps = iter((("reset", self._reset), ("reload", self._configure)))
        while True:
            try:
                driver = self._holding(loadable)
                result = driver.infer(batch, meanwhile)
                check(result.outputs)
                return result
            except BoardFault as fault:
                self._mend(steps, loadable, fault)

    def _mend(self, steps: Iterator[_Step], loadable: Loadable, fault: BoardFault) -> None:
        """Take the next steps until one succeeds; `EngineUnavailableError` after the last."""
        self._note(fault)
        for name, step in steps:
            try:
                step(loadable)
            except (BoardFault, BoardError) as error:
                self._note(error)
            else:
                self._report("mended", name)
                _log.warning("%s: mended by %s", self._name, name)
                self._status = EngineStatus()
                return
        self._retire()
        raise EngineUnavailableError(self._status.reason)

    def _note(self, error: BoardFault | BoardError) -> None:
        kind = error.kind if isinstance(error, BoardFault) else "configuration"
        self._report("fault", kind)
        self._status = EngineStatus("recovering", str(error))
        _log.warning("%s: %s: %s", self._name, kind, error)

    def _retire(self) -> None:
        """Give up for now; a thread tries again."""
        self._driver = None
        reason = f"the board is out of use: {self._status.reason}"
        self._status = EngineStatus("failed", reason)
        _log.error("%s: %s", self._name, reason)
        if self._mender is None:
            self._mender = threading.Thread(
                target=self._mend_later, name="emamba-board-mender", daemon=True
            )
            self._mender.start()

    def _mend_later(self) -> None:
        limits = self._limits
        wait_s = limits.retry_s
        while not self._closing.wait(wait_s):
            with self._lock:
                if self._status.state == "failed":
                    self._return_to_use()
            is_failed = self._status.state == "failed"
            wait_s = min(2 * wait_s, limits.longest_retry_s) if is_failed else limits.retry_s

    def _return_to_use(self) -> None:
        try:
            self._configure(self._first)
        except (BoardFault, BoardError) as error:
            self._driver = None
            _log.warning("%s: still out of use: %s", self._name, error)
        else:
            self._status = EngineStatus()
            self._report("mended", "return")
            _log.warning("%s: in use again", self._name)

    def _reset(self, loadable: Loadable) -> None:
        """Reset the DMA and load the weights anew, if the kernel waits for a call."""
        driver = self._configured()
        self._loaded = None
        driver.reset()
        if not driver.is_idle():
            raise BoardFault("busy", "the kernel must wait for a call, but is within one")
        driver.clear()
        self._load(driver, loadable)

    def _configure(self, loadable: Loadable) -> None:
        """Download the overlay anew; buffers of the configuration before are given back first."""
        self._driver = self._loaded = None
        limits = self._limits
        driver = BoardDriver(
            self._host.configure(),
            loadable.model.config,
            limits.transfer_frames,
            limits.timeout_s,
            loadable.answer,
        )
        driver.start(loadable.model.config_hash)
        self._load(driver, loadable)
        self._driver = driver

    def _holding(self, loadable: Loadable) -> BoardDriver:
        """The driver, with the weights of `loadable` in the kernel."""
        driver = self._configured()
        if self._loaded is not loadable:
            self._load(driver, loadable)
        return driver

    def _configured(self) -> BoardDriver:
        if self._driver is None:
            raise BoardFault("configuration", "the board must be configured, but is not")
        return self._driver

    def _load(self, driver: BoardDriver, loadable: Loadable) -> None:
        """Load weights, and compute frames whose answers are known."""
        self._loaded = None
        driver.load(loadable.image, loadable.crc)
        if loadable.tested:
            _test(driver, loadable)
        self._loaded = loadable


def _test(driver: BoardDriver, loadable: Loadable) -> None:
    """Raise `BoardFault` unless golden frames come out as the mirror's."""
    try:
        outputs = driver.infer(loadable.frames).outputs
    except BoardFault as fault:
        raise BoardFault(fault.kind, f"golden frames after loading: {fault}") from fault
    if not np.array_equal(outputs, loadable.expected):
        raise BoardFault(
            "wrong-answer", "golden frames must give the mirror's integers, but do not"
        )
