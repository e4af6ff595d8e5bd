"""The genuine pynq package over the emulated board."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emamba.export.image import image_crc, weights_image
from emamba.export.interface import COMMANDS, INTERFACE
from emamba.fixed import Mirror
from emamba.overlay import ManifestError
from emamba.package import Package

pynq = pytest.importorskip("pynq", reason="needs pynq")

BITSTREAM = "emamba.bit"


class Session:
    """A model on a loaded overlay, driven through pynq's own drivers as a notebook would."""

    def __init__(self, overlay: Any, package: Package, device: Any) -> None:
        self.device, self.model = device, package.model
        self.dma, self.kernel = overlay.axi_dma_0, overlay.emamba_0
        self.registers = self.kernel.register_map
        self.outputs = self.model.config.n_outputs
        self.words = -(-self.outputs // 4)

    def allocate(self, words: int) -> Any:
        return pynq.allocate(words, "u8", target=self.device)

    def start(self, command: str, count: int) -> None:
        self.registers.command = COMMANDS[command]
        self.registers.count = count
        self.registers.CTRL.AP_START = 1

    def load(self) -> None:
        image = weights_image(self.model)
        buffer = self.allocate(len(image))
        buffer[:] = image
        self.start("load", len(image))
        self.dma.sendchannel.transfer(buffer)
        self.dma.sendchannel.wait()
        self.wait()

    def wait(self) -> None:
        while not self.registers.CTRL.AP_DONE:
            pass

    def buffers(self, frames: npt.NDArray[np.int8]) -> tuple[Any, Any]:
        sent = self.allocate(frames.size // 8)
        sent[:] = np.frombuffer(frames.tobytes(), "<u8")
        return sent, self.allocate(len(frames) * self.words)

    def begin(self, frames: npt.NDArray[np.int8]) -> Any:
        sent, received = self.buffers(frames)
        self.start("infer", len(frames))
        self.dma.recvchannel.transfer(received)
        self.dma.sendchannel.transfer(sent)
        return received

    def infer(self, frames: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        received = self.begin(frames)
        self.dma.sendchannel.wait()
        self.dma.recvchannel.wait()
        return self.answer(received)

    def answer(self, received: Any) -> npt.NDArray[np.int16]:
        return np.array(received).view("<i2").reshape(-1, 4 * self.words)[:, : self.outputs]

    def frames(self, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
        rng = np.random.default_rng(seed)
        return rng.integers(-127, 128, (count, *self.model.config.input_shape)).astype(np.int8)


@pytest.fixture
def overlay(device: Any, overlay_folder: Path) -> Any:
    return pynq.Overlay(str(overlay_folder / BITSTREAM), device=device)


@pytest.fixture
def session(overlay: Any, mars: Package, device: Any) -> Session:
    made = Session(overlay, mars, device)
    made.load()
    return made


def test_the_overlay_is_what_the_interface_says(overlay: Any, device: Any) -> None:
    assert overlay.is_loaded()
    for window in INTERFACE.windows:
        entry = overlay.ip_dict[window.instance]
        assert entry["type"] == window.vlnv
        assert (entry["phys_addr"], entry["addr_range"]) == (window.base, window.size)
    registers = overlay.ip_dict[INTERFACE.kernel]["registers"]
    offsets = {name: entry["address_offset"] for name, entry in registers.items()}
    assert offsets == {
        name: offset for register in INTERFACE.registers for name, offset in register.words
    }
    assert isinstance(overlay.axi_dma_0, pynq.lib.dma.DMA)


def test_the_register_map_reads_writes_and_clears(session: Session) -> None:
    registers = session.registers
    assert int(registers.weights_crc) == image_crc(weights_image(session.model))
    assert registers.CTRL.AP_IDLE == 1
    registers.count = 12
    assert int(registers.count) == 12
    session.start("clear", 0)
    session.device.time.sleep(1e-3)
    assert [registers.CTRL.AP_DONE for _ in range(2)] == [1, 0]
    assert [registers.errors_ctrl.errors_ap_vld for _ in range(2)] == [1, 0]
    assert int(registers.interface_version) == INTERFACE.version


def test_infers_the_mirrors_bits(session: Session) -> None:
    for count in (1, 7):
        frames = session.frames(count, seed=count)
        np.testing.assert_array_equal(session.infer(frames), Mirror(session.model).run(frames))


def test_infers_through_views_of_a_buffer(session: Session) -> None:
    frames = session.frames(2)
    sent, received = session.buffers(frames)
    session.start("infer", 1)
    session.dma.recvchannel.transfer(received[session.words :])
    session.dma.sendchannel.transfer(sent[len(sent) // 2 :])
    session.dma.recvchannel.wait()
    expected = Mirror(session.model).run(frames[1:])
    np.testing.assert_array_equal(session.answer(received[session.words :]), expected)
    assert not received[: session.words].any()


def test_a_missing_flush_sends_something_else(session: Session) -> None:
    frames = session.frames(1)
    sent, received = session.buffers(frames)
    session.start("infer", 1)
    session.dma.recvchannel.transfer(received)
    channel = session.device.board.interface.window("axi_dma_0").base
    session.device.board.write(channel + 0x18, sent.device_address)
    session.device.board.write(channel + 0x28, sent.nbytes)
    session.dma.recvchannel.wait()
    expected = Mirror(session.model).run(frames)
    assert (session.answer(received) != expected).any()
    session.start("infer", 1)
    session.dma.recvchannel.transfer(received)
    session.dma.sendchannel.transfer(sent)
    session.dma.recvchannel.wait()
    np.testing.assert_array_equal(session.answer(received), expected)


def test_a_missing_invalidate_shows_what_was_there_before(session: Session) -> None:
    received = session.begin(session.frames(1))
    session.wait()
    assert not received.any()
    received.invalidate()
    expected = Mirror(session.model).run(session.frames(1))
    np.testing.assert_array_equal(session.answer(received), expected)


def test_arithmetic_on_a_buffer_has_no_memory_on_the_board(session: Session) -> None:
    buffer = session.allocate(8)
    with pytest.raises(RuntimeError, match="use the buffer that was allocated"):
        (buffer + np.uint64(1)).flush()


def test_waits_for_interrupts_in_an_event_loop(session: Session) -> None:
    frames = session.frames(3)

    async def infer_often() -> list[npt.NDArray[np.int16]]:
        answers = []
        for _ in range(3):
            received = session.begin(frames)
            await session.dma.sendchannel.wait_async()
            await session.dma.recvchannel.wait_async()
            answers.append(session.answer(received))
        return answers

    for answer in asyncio.run(infer_often()):
        np.testing.assert_array_equal(answer, Mirror(session.model).run(frames))


def test_waits_for_the_kernels_interrupt(session: Session) -> None:
    session.registers.GIER = 1
    session.registers.IP_IER = 1

    async def clear() -> None:
        session.start("clear", 0)
        await session.kernel.interrupt.wait()

    asyncio.run(asyncio.wait_for(clear(), 10.0))
    assert session.registers.IP_ISR.CHAN0_INT_ST == 1


def test_an_event_loop_in_another_thread_wakes_up(session: Session) -> None:
    frames = session.frames(1)
    waits = threading.Event()
    sent, received = session.buffers(frames)
    session.dma.recvchannel.transfer(received)

    async def wait() -> None:
        asyncio.get_running_loop().call_later(0.05, waits.set)
        await asyncio.wait_for(session.dma.recvchannel.wait_async(), 10.0)

    thread = threading.Thread(target=lambda: asyncio.run(wait()))
    thread.start()
    assert waits.wait(10.0)
    session.start("infer", 1)
    session.dma.sendchannel.transfer(sent)
    thread.join(10.0)
    assert not thread.is_alive()
    np.testing.assert_array_equal(session.answer(received), Mirror(session.model).run(frames))


def test_a_lost_interrupt_is_waited_for_in_vain(session: Session) -> None:
    session.device.faults.arm("interrupt_lost", rate=1)

    async def infer() -> None:
        session.begin(session.frames(1))
        await session.dma.recvchannel.wait_async()

    with pytest.raises((asyncio.TimeoutError, TimeoutError)):
        asyncio.run(asyncio.wait_for(infer(), 0.2))
    assert session.dma.recvchannel.idle


def test_clocks_are_the_overlays(overlay: Any, device: Any) -> None:
    assert pynq.Clocks.fclk0_mhz == pytest.approx(100, rel=1e-4)
    assert pynq.Clocks.cpu_mhz == pytest.approx(1200, rel=1e-4)
    pynq.Clocks.fclk1_mhz = 50
    assert pynq.Clocks.fclk1_mhz == pytest.approx(50, rel=1e-4)


def test_a_buffer_gives_its_memory_back(device: Any) -> None:
    used = device.board.memory.used_bytes
    buffer = device.allocate((4, 1024), "u4")
    view = buffer[1:]
    assert device.board.memory.used_bytes == used + 16384
    assert view.device_address == buffer.device_address + 4096
    del buffer
    assert device.board.memory.used_bytes == used + 16384
    del view
    assert device.board.memory.used_bytes == used
    with device.allocate(8, "u1"):
        assert device.board.memory.used_bytes == used + 4096
    assert device.board.memory.used_bytes == used


def test_memory_runs_out_as_on_a_board(device: Any) -> None:
    with pytest.raises(RuntimeError, match="BO allocation failed"):
        device.allocate(257 << 20, "u1")


def test_a_download_starts_afresh(session: Session, overlay: Any) -> None:
    overlay.download()
    assert int(session.registers.weights_crc) == 0
    assert overlay.is_loaded()


def test_refuses_files_that_do_not_belong_together(
    device: Any, overlay_folder: Path, tmp_path: Path
) -> None:
    for file in overlay_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "emamba.hwh").open("a") as file:
        file.write("\n")
    with pytest.raises(ManifestError, match="copy bitstream, hand-off and manifest together"):
        pynq.Overlay(str(tmp_path / BITSTREAM), device=device)


def test_two_boards_in_one_process_share_nothing(
    session: Session, new_device: Callable[[], Any], overlay_folder: Path, mars: Package
) -> None:
    other = new_device()
    frames = session.frames(2)
    with session.device.recording() as untouched:
        second = Session(pynq.Overlay(str(overlay_folder / BITSTREAM), device=other), mars, other)
        assert int(second.registers.weights_crc) == 0
        second.load()
        second.infer(frames)
    assert untouched == []
    np.testing.assert_array_equal(session.infer(frames), second.infer(frames))
    assert session.device.tag != other.tag


_AUDITED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from pathlib import Path
import warnings
warnings.simplefilter("ignore")
import pynq
from emamba_service.emulator.device import EmulatedDevice
device = EmulatedDevice(Path(sys.argv[1]))
pynq.Device.active_device = device
overlay = pynq.Overlay(sys.argv[2], device=device)
overlay.axi_dma_0.register_map
owned_by_root = ("/dev/mem", "/dev/uio", "/sys/class/fpga_manager", "/lib/firmware")
print([path for path in opened if path.startswith(owned_by_root)])
"""


def test_opens_nothing_that_needs_root(kernel_library: Path, overlay_folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AUDITED, str(kernel_library), str(overlay_folder / BITSTREAM)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_package_imports_without_pynq() -> None:
    script = "import sys, emamba_service.emulator; sys.exit('pynq' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], timeout=60, check=False).returncode == 0
