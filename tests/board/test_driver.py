"""The hot path over the emulated board: bits, register traffic, order, deadlines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from board.parts import Opened, frames_of, open_driver
from emamba.export.interface import INTERFACE
from emamba.overlay import open_overlay
from emamba.package import Package
from emamba_service.board.driver import BoardDriver
from emamba_service.board.ports import BoardFault, Ports

DMA = INTERFACE.window("axi_dma_0").base
KERNEL = INTERFACE.window(INTERFACE.kernel).base
CTRL, MM2S_LENGTH, S2MM_STATUS, S2MM_LENGTH = KERNEL, DMA + 0x28, DMA + 0x34, DMA + 0x58


@pytest.fixture
def opened(
    new_device: Callable[[], Any], mars: Package, overlay_folder: Path
) -> Iterator[Callable[..., Opened]]:
    """Opens a driver on a board of its own."""
    hosts = []

    def make(slow_factor: float = 1e6, **settings: Any) -> Opened:
        device = new_device()
        device.faults.slow_factor = slow_factor
        board = open_driver(device, mars.model, open_overlay(overlay_folder), **settings)
        hosts.append(board.host)
        return board

    yield make
    for host in hosts:
        host.close()


@pytest.mark.parametrize("frames", [0, 1, 3, 16, 17, 50])
def test_answers_the_mirrors_bits(opened: Callable[..., Opened], frames: int) -> None:
    board = opened(transfer_frames=16)
    batch = frames_of(board.model, frames, seed=frames)
    result = board.driver.infer(batch)
    np.testing.assert_array_equal(result.outputs, board.mirror.run(batch))


def test_a_batch_of_one_takes_six_writes_and_eight_reads(opened: Callable[..., Opened]) -> None:
    board = opened()
    batch = frames_of(board.model, 1)
    board.driver.infer(batch)
    with board.device.recording() as accesses:
        board.driver.infer(batch)
    writes = [hex(address) for kind, address, _ in accesses if kind == "write"]
    assert writes == [
        hex(DMA + 0x18), hex(MM2S_LENGTH), hex(DMA + 0x48), hex(S2MM_LENGTH), hex(CTRL),
        hex(S2MM_STATUS),
    ]  # fmt: skip
    reads = [address for kind, address, _ in accesses if kind == "read"]
    polls = reads.count(CTRL) - 1
    named = ("errors", "answer_crc", "cycles", "input_crc")
    kernel = [KERNEL + INTERFACE.register(name).offset for name in named]
    assert [address for address in reads if address != CTRL] == [DMA + 4, S2MM_STATUS, *kernel]
    # One frame takes 757 modelled cycles of 5 ns, a register 250 ns.
    assert polls <= 25


def test_the_next_transfer_is_sent_while_the_kernel_computes(
    opened: Callable[..., Opened],
) -> None:
    board = opened(transfer_frames=8)
    with board.device.recording() as accesses:
        board.driver.infer(frames_of(board.model, 24))
    sent = [i for i, (kind, at, _) in enumerate(accesses) if (kind, at) == ("write", MM2S_LENGTH)]
    starts = [i for i, (kind, at, _) in enumerate(accesses) if (kind, at) == ("write", CTRL)]
    done = [
        i for i, (kind, at, value) in enumerate(accesses)
        if (kind, at) == ("read", CTRL) and value & 2
    ]  # fmt: skip
    assert len(sent) == len(starts) == len(done) == 3
    # Sent after the start before, and before that one's end was seen.
    assert starts[0] < sent[1] < done[0] < starts[1] < sent[2] < done[1]


class Said(dict[int, int]):
    """Registers that say what they are given to say, and keep what is written apart."""

    def __init__(self, said: dict[int, int]) -> None:
        super().__init__(said)
        self.written: list[tuple[int, int]] = []

    def __missing__(self, word: int) -> int:
        return 0

    def __setitem__(self, word: int, value: int) -> None:
        self.written.append((word, value))


@dataclass
class Memory:
    """A buffer at any address."""

    address: int
    words: npt.NDArray[np.uint64]

    def flush(self, nbytes: int) -> None: ...

    def invalidate(self, nbytes: int) -> None: ...


def test_addresses_beyond_4_gib_are_written_whole_and_only_when_they_change(mars: Package) -> None:
    # Sent and received of the first pair, then of the second.
    addresses = iter([0x3_0000_0000, 0x1000, 0x3_0001_0000, 0x2000])
    dma = Said({1: 0x2, 13: 0x2})
    ports = Ports(
        kernel=Said({0: 0b1110}),
        dma=dma,
        allocate=lambda words: Memory(next(addresses), np.zeros(words, np.uint64)),
    )
    driver = BoardDriver(ports, mars.model.config, 1, 1.0)
    driver.reset()
    dma.written.clear()
    with pytest.raises(BoardFault, match="the kernel must take the frames that were sent"):
        driver.infer(frames_of(mars.model, 2))
    sent = [(word, value) for word, value in dma.written if word in (6, 7)]
    assert sent == [(6, 0), (7, 3), (6, 0x1_0000)]
    assert [word for word, _ in dma.written if word == 12 + 7] == []


@pytest.mark.parametrize("interrupts", [True, False])
def test_a_long_computation_is_waited_for(opened: Callable[..., Opened], interrupts: bool) -> None:
    board = opened(transfer_frames=64, slow_factor=20, interrupts=interrupts)
    batch = frames_of(board.model, 64)
    board.faults.arm("slow_kernel")
    with board.device.recording() as accesses:
        result = board.driver.infer(batch)
    np.testing.assert_array_equal(result.outputs, board.mirror.run(batch))
    assert board.faults.injected == {"slow_kernel": 1}
    # 200 us of looking, a thousand times at most, then rest.
    assert len(accesses) < 1000


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("dma_hang_mm2s", "timeout", "must end within 0.05 s, but did not"),
        ("dma_hang_s2mm", "timeout", "must end within 0.05 s, but did not"),
        ("dma_error_internal_mm2s", "dma-error", "the sending DMA must be running, but has halted"),
        ("dma_error_slave_mm2s", "dma-error", "(slave error"),
        ("dma_error_decode_s2mm", "dma-error", "the receiving DMA must be running, but has halted"),
        ("input_flip", "transport", "the kernel must take the frames that were sent: register inp"),
        ("output_flip", "transport", "the kernel's answer must arrive unchanged: register answer"),
        ("slow_kernel", "timeout", "3 frames must end within 0.05 s, but did not"),
        ("overlay_gone", "gone", "all its bits are 1: no overlay answers"),
    ],
)
def test_each_fault_is_seen_and_named(
    opened: Callable[..., Opened], fault: str, kind: str, says: str
) -> None:
    board = opened(timeout_s=0.05)
    batch = frames_of(board.model, 3)
    board.driver.infer(batch)
    board.faults.arm(fault)
    begin = board.clock.now()
    with pytest.raises(BoardFault) as caught:
        board.driver.infer(batch)
    assert caught.value.kind == kind
    assert says in str(caught.value)
    assert board.clock.now() - begin <= 0.05 + 0.003


def test_another_identity_is_refused(opened: Callable[..., Opened]) -> None:
    board = opened()
    found = board.model.config_hash[:16]
    with pytest.raises(BoardFault) as caught:
        board.driver.start("0123456789abcdef" + 48 * "0")
    assert str(caught.value) == (
        "register config_hash must be the model's 0123456789abcdef, but the bitstream says "
        f"{found}; choose the overlay built for this model"
    )


def test_exhausted_memory_says_what_to_do(opened: Callable[..., Opened]) -> None:
    def arm(faults: Any) -> None:
        faults.arm("cma_exhausted")

    with pytest.raises(
        BoardFault, match=r"contiguous memory, but has not \(.*\); boot with a larg"
    ):
        opened(before=arm)


def test_a_lost_interrupt_costs_a_slice_only(opened: Callable[..., Opened]) -> None:
    board = opened(transfer_frames=64, slow_factor=20)
    batch = frames_of(board.model, 64)
    board.faults.arm("slow_kernel")
    board.faults.arm("interrupt_lost", rate=1.0)
    begin = board.clock.now()
    result = board.driver.infer(batch)
    np.testing.assert_array_equal(result.outputs, board.mirror.run(batch))
    assert board.faults.injected["interrupt_lost"] >= 1
    assert board.clock.now() - begin < 0.01
