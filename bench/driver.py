"""What a driver costs in processor time: ours beside pynq's own DMA classes, on the same device.

The device answers at once: its registers are memory that says "done" and drops what is written,
mapped as a board's are, so what is left is the driver. Buffers are coherent, so neither driver
maintains a cache. Interleaved rounds; the median of the rounds counts.

    service/scripts/with_pynq.sh python3 "" python -m bench.driver [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pynq

from emamba.compiler import Compiler, cache_folder
from emamba.engines import NativeEngine
from emamba.export.interface import COMMANDS, INTERFACE
from emamba.export.timing import frame_words, output_words
from emamba.fixed import IntegerModel, Mirror
from emamba.overlay import OverlayFolder, emulated_overlay
from emamba.package import load_package
from emamba.simulated import build_simulation
from emamba_service.board.board import Loadable
from emamba_service.board.driver import BoardDriver
from emamba_service.board.host import PynqHost
from emamba_service.emulator.device import EmulatedDevice

BATCHES = (1, 8, 64)
ROUNDS, CALLS = 15, 400
_DMA, _KERNEL = INTERFACE.window("axi_dma_0"), INTERFACE.window(INTERFACE.kernel)


class Kept(np.ndarray[Any, np.dtype[np.uint32]]):
    """Memory that keeps what it says. Dropping a write costs about what writing would."""

    def __setitem__(self, word: Any, value: Any) -> None:
        pass


class FinishedDevice(EmulatedDevice):
    """Registers that always say that everything is done, and answers that are always there."""

    def __init__(self, library: Path) -> None:
        super().__init__(library)
        self.capabilities = {"MEMORY_MAPPED": True}
        self._windows: dict[int, npt.NDArray[np.uint32]] = {}

    def mmap(self, base: int, length: int) -> npt.NDArray[np.uint32]:
        """Plain memory, made once for each part of the board."""
        if base not in self._windows:
            self._windows[base] = np.zeros(length // 4, np.uint32)
            for at in range(0, min(length, 0x100), 4):
                self._windows[base][at // 4] = self.board.read(base + at)
            if base == _DMA.base:
                # pynq's class waits for ever for a channel that stays halted.
                self._windows[base][[1, 13]] = 0x2
        return self._windows[base].view(Kept)

    def finish(self, model: IntegerModel, frames: bytes, answer: bytes) -> None:
        """Make the registers those after a call with these frames."""
        kernel = self._windows[_KERNEL.base]
        values = {
            "CTRL": 0b1110,
            "interface_version": INTERFACE.version,
            "weights_crc": Loadable(model).crc,
            "input_crc": zlib.crc32(frames),
            "answer_crc": zlib.crc32(answer),
        }
        for name, value in values.items():
            kernel[INTERFACE.register(name).offset // 4] = value

    def allocate(self, shape: Any, dtype: Any, cacheable: int = 0) -> Any:
        buffer = super().allocate(shape, dtype, cacheable)
        buffer.coherent = True
        return buffer


class Ours:
    """Our driver; its checks of the answer included."""

    def __init__(self, device: FinishedDevice, overlay: OverlayFolder, model: IntegerModel) -> None:
        self._device, self._model = device, model
        self.ports = PynqHost(overlay, device).configure()
        self._driver = BoardDriver(self.ports, model.config, 64, 1.0)

    def prepare(self, batch: npt.NDArray[np.int8], outputs: npt.NDArray[np.int16]) -> None:
        frames = packed(batch, frame_words(self._model.config))
        answer = packed(outputs, output_words(self._model.config))
        self._device.finish(self._model, frames.tobytes(), answer.tobytes())
        slot = self._driver._slots[0]
        slot.received_rows[: len(batch)] = answer.view(np.int16).reshape(len(batch), -1)

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        return self._driver.infer(batch).outputs


class Pynqs:
    """pynq's classes as its examples use them: `write`, `transfer`, `wait`; nothing checked."""

    def __init__(self, overlay: OverlayFolder, device: FinishedDevice, model: IntegerModel) -> None:
        loaded = pynq.Overlay(str(overlay.bitstream), device=device)
        self._dma, self._kernel = loaded.axi_dma_0, getattr(loaded, INTERFACE.kernel)
        self._model = model

    def prepare(self, batch: npt.NDArray[np.int8], outputs: npt.NDArray[np.int16]) -> None:
        config, count = self._model.config, len(batch)
        self._sent = pynq.allocate((count, 8 * frame_words(config)), np.int8)
        self._received = pynq.allocate((count, 4 * output_words(config)), np.int16)
        self._received[:, : config.n_outputs] = outputs

    def run(self, batch: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        config, offset = self._model.config, {r.name: r.offset for r in INTERFACE.registers}
        self._sent[:, : batch[0].size] = batch.reshape(len(batch), -1)
        self._kernel.write(offset["command"], COMMANDS["infer"])
        self._kernel.write(offset["count"], len(batch))
        self._dma.recvchannel.transfer(self._received)
        self._kernel.write(offset["CTRL"], 1)
        self._dma.sendchannel.transfer(self._sent)
        self._dma.sendchannel.wait()
        self._dma.recvchannel.wait()
        while not self._kernel.read(offset["CTRL"]) & 2:
            pass
        return np.array(self._received[:, : config.n_outputs])


def packed(rows: npt.NDArray[Any], words: int) -> npt.NDArray[np.uint64]:
    """Rows of whole words."""
    flat = rows.reshape(len(rows), -1)
    padded = np.zeros((len(rows), 8 * words // flat.itemsize), flat.dtype)
    padded[:, : flat.shape[1]] = flat
    return padded.view(np.uint64)


def cpu_us(work: Callable[[], object]) -> float:
    """Processor microseconds of one call, from many."""
    begin = time.process_time()
    for _ in range(CALLS):
        work()
    return 1e6 * (time.process_time() - begin) / CALLS


def measure(contenders: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median processor microseconds of a call, rounds interleaved."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, work in contenders.items():
            found[name].append(cpu_us(work))
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder))
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def run(folder: Path) -> dict[str, Any]:
    """All figures, and how they were got."""
    package = load_package(Path("models/mars/1"))
    model = package.model
    overlay = emulated_overlay(model, "fast", folder)
    library = build_simulation(model.config, "fast", Compiler.find(), cache_folder())
    device = FinishedDevice(library)
    pynq.Device.active_device = device
    pynqs, ours = Pynqs(overlay, device, model), Ours(device, overlay, model)
    mirror, native = Mirror(model), NativeEngine(model, threads=1)
    frames = np.random.default_rng(0).integers(-127, 128, (64, *model.config.input_shape))
    rows = []
    for count in BATCHES:
        batch = frames[:count].astype(np.int8)
        outputs = mirror.run(batch)
        for driver in (ours, pynqs):
            driver.prepare(batch, outputs)
            np.testing.assert_array_equal(driver.run(batch), outputs)
        contenders = {
            "driver_us": partial(ours.run, batch),
            "pynq_us": partial(pynqs.run, batch),
            "guard_every_us": partial(native.run, batch),
        }
        rows.append({"batch": count, **measure(contenders)})
    return {
        "what": "processor time of one call, its kernel's time excluded",
        "obtained": "measured on a device whose registers always say done; not on hardware",
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "pynq": pynq.__version__,
        "numpy": np.__version__,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
