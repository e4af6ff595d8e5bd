"""The genuine pynq package as a host: overlay, registers, buffers, interrupts.

The only module of the board's that imports pynq, and only when a host is made: pynq looks for
devices while it is imported. Real boards and emulated devices go the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.export.interface import INTERFACE
from emamba.overlay import OverlayFolder
from emamba_service.board.ports import BoardError, Clock, Ports, WallClock

__all__ = ["PynqBuffer", "PynqHost", "check_board", "check_pynq", "forget_metadata"]

_log = logging.getLogger(__name__)
_DMA, _INTERRUPT = "axi_dma_0", "axi_dma_0/s2mm_introut"


class PynqHost:
    """Configures `overlay` on `device`; on the board's own, after `check_board`, if None.

    Raises `BoardError` where pynq cannot be imported.
    """

    def __init__(
        self, overlay: OverlayFolder, device: Any = None, clock: Clock | None = None
    ) -> None:
        self._pynq = _import_pynq()
        self._overlay = overlay
        self._real = device is None
        self._device = device
        self._clock = clock or WallClock()
        self._loop: _InterruptLoop | None = None

    def configure(self) -> Ports:
        """Download the overlay, past pynq's cache; raises `BoardError`."""
        pynq, bitstream = self._pynq, str(self._overlay.bitstream.resolve())
        try:
            if self._real:
                self._device = pynq.Device.active_device
                forget_metadata(Path(pynq.__file__).parent / "pl_server")
            # Interrupts and clocks look nowhere else.
            pynq.Device.active_device = self._device
            loaded = pynq.Overlay(bitstream, device=self._device)
        except BoardError:
            raise
        except Exception as error:
            raise BoardError(
                f"pynq must download {bitstream}, but says: {error}; emamba-service doctor checks "
                "what a board needs"
            ) from error
        self._check_addresses(loaded.ip_dict)
        return Ports(
            kernel=self._registers(INTERFACE.kernel),
            dma=self._registers(_DMA),
            allocate=lambda words: PynqBuffer(
                pynq.allocate(shape=(words,), dtype=np.uint64, target=self._device)
            ),
            interrupt=self._interrupt(loaded),
            clock=self._clock,
        )

    def close(self) -> None:
        """Stop waiting for interrupts."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None

    def _registers(self, instance: str) -> Any:
        window = INTERFACE.window(instance)
        return self._pynq.MMIO(window.base, window.size, device=self._device).array

    def _check_addresses(self, found: Mapping[str, Any]) -> None:
        """pynq must have read this hand-off, not one it remembers."""
        for window in INTERFACE.windows:
            if window.instance not in found:
                raise BoardError(
                    f"pynq must find {window.instance} in {self._overlay.handoff}, but finds "
                    f"{', '.join(found) or 'nothing'}; is its metadata cache another design's?"
                )
            base = int(found[window.instance]["phys_addr"])
            if base != window.base:
                raise BoardError(
                    f"pynq must find {window.instance} at {window.base:#x}, but finds it at "
                    f"{base:#x}; is its metadata cache another design's?"
                )

    def _interrupt(self, loaded: Any) -> Callable[[float], bool] | None:
        """What waits for the receiving DMA; None where the design or the kernel has no way."""
        if _INTERRUPT not in loaded.interrupt_pins:
            return None
        self._loop = loop = self._loop or _InterruptLoop()
        try:
            interrupt = loop.call(lambda: self._pynq.Interrupt(_INTERRUPT))
        except Exception as error:
            _log.warning(
                "interrupts must reach this process, but do not (%s); polling instead. "
                "Is the generic UIO driver bound to the overlay's interrupt?",
                error,
            )
            return None
        return lambda seconds: loop.wait(interrupt, seconds)


class PynqBuffer:
    """A pynq buffer as the driver sees it; plain NumPy views cost less than pynq's."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self._virtual_address = int(buffer.virtual_address)
        self._coherent = bool(buffer.coherent)
        self.words: npt.NDArray[np.uint64] = buffer.view(np.ndarray)
        self.address = int(buffer.device_address)

    def flush(self, nbytes: int) -> None:
        if not self._coherent:
            self._buffer.device.flush(self._buffer.bo, 0, self._virtual_address, nbytes)

    def invalidate(self, nbytes: int) -> None:
        if not self._coherent:
            self._buffer.device.invalidate(self._buffer.bo, 0, self._virtual_address, nbytes)


class _InterruptLoop:
    """An event loop in a thread: pynq ties an interrupt's file to the loop that first saw it, so
    there is one as long as the host lives."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="emamba-interrupts", daemon=True
        )
        self._thread.start()

    def call(self, make: Callable[[], Any]) -> Any:
        """`make()` inside the loop."""

        async def called() -> Any:
            return make()

        return self._finish(called(), 10.0)

    def wait(self, interrupt: Any, seconds: float) -> bool:
        """Whether the interrupt came within `seconds`."""
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            self._finish(asyncio.wait_for(interrupt.wait(), seconds), seconds + 1.0)
            return True
        return False

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _finish(self, work: Coroutine[Any, Any, Any], seconds: float) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)


def check_board(environment: Mapping[str, str] | None = None, euid: int | None = None) -> None:
    """Raise `BoardError` unless pynq can find this board; before pynq is imported."""
    environment = os.environ if environment is None else environment
    check_pynq()
    if not environment.get("XILINX_XRT"):
        raise BoardError(
            "XILINX_XRT must be set before pynq is imported, but is not; "
            "on a PYNQ image set XILINX_XRT=/usr (docs/board.md)"
        )
    if "pynq" in sys.modules and not hasattr(sys.modules["pynq"].pl_server, "embedded_device"):
        raise BoardError(
            "XILINX_XRT must be set before pynq is imported, but pynq was imported without it; "
            "set XILINX_XRT=/usr and start again"
        )
    if (os.geteuid() if euid is None else euid) != 0:
        raise BoardError(
            "pynq needs root to reach a board's registers, but this is another user; "
            "start as root, for instance by the systemd unit of docs/board.md"
        )


def check_pynq() -> None:
    """Raise `BoardError` unless pynq is installed."""
    if find_spec("pynq") is None:
        raise BoardError(
            "pynq must be installed, but is not; pip install 'emamba-service[board]', or on a "
            "PYNQ image deploy/board/install.sh (docs/board.md); --engine native needs no board"
        )


def _import_pynq() -> Any:
    check_pynq()
    try:
        return importlib.import_module("pynq")
    except Exception as error:
        raise BoardError(
            f"pynq must be importable, but says: {error}; see docs/board.md for versions that are"
        ) from error


def forget_metadata(folder: Path) -> None:
    """Remove what pynq remembers of the last overlay in its `folder`, keyed by the bitstream alone.

    A new hand-off beside an old bitstream would not be read otherwise. Raises `BoardError`.
    """
    for path in (folder / "_current_metadata.pkl", *folder.glob("global_pl_state_*.json")):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise BoardError(
                f"{path} must be removable, for pynq would read it instead of the hand-off, but "
                f"{error.strerror}; remove it as root"
            ) from error
