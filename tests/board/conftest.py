from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emamba.compiler import Compiler, NativeError, cache_folder
from emamba.export.image import weights_image
from emamba.export.interface import COMMANDS, INTERFACE
from emamba.fixed import IntegerModel
from emamba.overlay import emulated_overlay
from emamba.package import Package, load_package
from emamba.simulated import SimulatedKernel, build_simulation
from emamba_service.emulator import EmulatedZcu102, Faults
from emamba_service.emulator.memory import Block

ROOT = Path(__file__).resolve().parents[2]
PRESET = "fast"

Words = npt.NDArray[np.uint64]


def pytest_configure(config: pytest.Config) -> None:
    # pynq warns of every processor that no board has, while it is imported.
    config.addinivalue_line(
        "filterwarnings", "ignore:Pynq does not support the CPU Architecture:ResourceWarning"
    )


@pytest.fixture(scope="session")
def mars() -> Package:
    return load_package(ROOT / "models" / "mars" / "1")


@pytest.fixture(scope="session")
def overlay_folder(mars: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return emulated_overlay(mars.model, PRESET, tmp_path_factory.mktemp("overlay")).path


@pytest.fixture(scope="session")
def kernel_library(mars: Package) -> Path:
    """The kernel of mars/1 in simulation, compiled once for all runs."""
    try:
        compiler = Compiler.find()
    except NativeError as error:
        pytest.skip(str(error))
    return build_simulation(mars.model.config, PRESET, compiler, cache_folder())


@pytest.fixture
def new_device(kernel_library: Path) -> Iterator[Callable[[], Any]]:
    """Makes emulated boards without overlay, each active for pynq until the next."""
    pynq = pytest.importorskip("pynq", reason="needs pynq")
    # Imports pynq.
    module = importlib.import_module("emamba_service.emulator.device")
    made = []

    def make() -> Any:
        made.append(module.EmulatedDevice(kernel_library))
        pynq.Device.active_device = made[-1]
        return made[-1]

    yield make
    for device in made:
        device.close()


@pytest.fixture
def device(new_device: Callable[[], Any]) -> Any:
    """An emulated board without overlay, active for pynq."""
    return new_device()


class Bench:
    """An emulated board without pynq, and the few lines that drive it by registers.

    It has no recovery: what a fault does is looked at as it is.
    """

    DMA = INTERFACE.window("axi_dma_0").base
    KERNEL = INTERFACE.window(INTERFACE.kernel).base
    INTC = INTERFACE.window("axi_intc_0").base

    def __init__(self, library: Path, model: IntegerModel) -> None:
        self.faults = Faults(seed=7)
        self.board = EmulatedZcu102(self.faults)
        self.model = model
        self.image = weights_image(model)
        self._library = library

    def configure(self) -> None:
        self.board.configure(SimulatedKernel(self._library))
        self.start_dma()

    def start_dma(self) -> None:
        self.board.write(self.DMA + 0x00, 4)
        self.board.write(self.DMA + 0x00, 0x5001)
        self.board.write(self.DMA + 0x30, 0x5001)

    def status(self, channel: str) -> int:
        return self.board.read(self.DMA + {"mm2s": 0x04, "s2mm": 0x34}[channel])

    def register(self, name: str) -> int:
        *words, _ = INTERFACE.register(name).words
        return sum(
            self.board.read(self.KERNEL + offset) << (32 * i) for i, (_, offset) in enumerate(words)
        )

    def errors(self) -> set[str]:
        bits = INTERFACE.register("errors").bits
        value = self.register("errors")
        return {name for bit, name in enumerate(bits) if value >> bit & 1}

    def start(self, command: str, count: int = 0) -> None:
        at = {register.name: register.offset for register in INTERFACE.registers}
        for name, value in (("command", COMMANDS[command]), ("count", count), ("CTRL", 1)):
            self.board.write(self.KERNEL + at[name], value)

    def transfer(self, channel: str, block: Block, size_bytes: int) -> None:
        base = self.DMA + {"mm2s": 0x00, "s2mm": 0x30}[channel]
        self.board.write(base + 0x18, block.address & 0xFFFF_FFFF)
        self.board.write(base + 0x1C, block.address >> 32)
        self.board.write(base + 0x28, size_bytes)

    def send(self, words: Words) -> Block:
        block = self.board.allocate(words.nbytes)
        block.host[:] = words.view(np.uint8)
        self.board.flush(block, 0, words.nbytes)
        self.transfer("mm2s", block, words.nbytes)
        return block

    def receive(self, words: int) -> Block:
        block = self.board.allocate(8 * words)
        self.transfer("s2mm", block, 8 * words)
        return block

    def taken(self, block: Block) -> npt.NDArray[np.int16]:
        """The answer in memory: int16 (n, n_outputs)."""
        self.board.invalidate(block, 0, len(block.host))
        lanes = 4 * self.answer_words(1)
        return block.host.view("<i2").reshape(-1, lanes)[:, : self.model.config.n_outputs]

    def answer_words(self, frames: int) -> int:
        return frames * -(-self.model.config.n_outputs // 4)

    def is_done(self, within_s: float = 0.01) -> bool:
        """Whether the kernel ends within so many modelled seconds."""
        self.board.time.sleep(within_s)
        return bool(self.board.read(self.KERNEL) & 2)

    def load(self) -> None:
        self.start("load", len(self.image))
        self.send(self.image)
        assert self.is_done()

    def begin(self, frames: npt.NDArray[np.int8]) -> Block:
        """Everything of an inference but waiting for it."""
        self.start("infer", len(frames))
        block = self.receive(self.answer_words(len(frames)))
        self.send(np.frombuffer(frames.tobytes(), "<u8"))
        return block

    def infer(self, frames: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        block = self.begin(frames)
        assert self.is_done()
        return self.taken(block)

    def frames(self, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
        rng = np.random.default_rng(seed)
        return rng.integers(-127, 128, (count, *self.model.config.input_shape)).astype(np.int8)


@pytest.fixture
def bench(kernel_library: Path, mars: Package) -> Iterator[Bench]:
    """A configured board with its parameters loaded, without pynq."""
    made = Bench(kernel_library, mars.model)
    made.configure()
    made.load()
    yield made
    made.board.close()
