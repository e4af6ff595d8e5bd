"""A driver on an emulated board, with everything that a test may look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.fixed import IntegerModel, Mirror
from emamba.overlay import OverlayFolder
from emamba_service.board.board import Loadable
from emamba_service.board.driver import BoardDriver
from emamba_service.board.host import PynqHost


@dataclass
class Opened:
    """A started driver with the weights loaded."""

    model: IntegerModel
    mirror: Mirror
    device: Any
    driver: BoardDriver
    host: PynqHost

    @property
    def faults(self) -> Any:
        return self.device.faults

    @property
    def clock(self) -> Any:
        return self.device.time


def open_driver(
    device: Any,
    model: IntegerModel,
    overlay: OverlayFolder,
    *,
    transfer_frames: int = 256,
    timeout_s: float = 0.5,
    interrupts: bool = True,
    before: Callable[[Any], None] = lambda faults: None,
) -> Opened:
    """Through the genuine pynq; `before` arms faults that are there from the start."""
    host = PynqHost(overlay, device, device.time)
    ports = host.configure()
    assert ports.interrupt is not None
    before(device.faults)
    ports = ports if interrupts else replace(ports, interrupt=None)
    driver = BoardDriver(ports, model.config, transfer_frames, timeout_s)
    driver.start(model.config_hash)
    loadable = Loadable(model)
    driver.load(loadable.image, loadable.crc)
    return Opened(model, Mirror(model), device, driver, host)


def frames_of(model: IntegerModel, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
    """Random frames."""
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (count, *model.config.input_shape)).astype(np.int8)
