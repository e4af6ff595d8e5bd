"""The emulated board by its registers, without pynq: time, memory, DMA, kernel, interrupts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from emamba.export.image import image_crc
from emamba.export.interface import INTERFACE
from emamba.fixed import Mirror
from emamba_service.emulator import BusHangError, EmulatedTime, EmulatedZcu102
from emamba_service.emulator.dma import SETUP_S
from emamba_service.emulator.memory import BASE, PATTERN, DeviceMemory
from emamba_service.emulator.time import REGISTER_ACCESS_S

HALTED, IDLE = 1 << 0, 1 << 1
INTERNAL, DECODE = 1 << 4, 1 << 6
COMPLETE = 1 << 12
START, DONE, READY = 1 << 0, 1 << 1, 1 << 3


class TestTime:
    def test_does_what_is_due_in_order(self) -> None:
        time = EmulatedTime()
        seen: list[tuple[str, float]] = []
        time.schedule(2.0, lambda: seen.append(("late", time.now())))
        time.schedule(1.0, lambda: seen.append(("early", time.now())))
        time.schedule(1.0, lambda: seen.append(("early too", time.now())))
        time.sleep(1.5)
        assert seen == [("early", 1.0), ("early too", 1.0)]
        assert time.now() == 1.5
        assert time.run_next()
        assert seen[-1] == ("late", 2.0)
        assert not time.run_next()

    def test_a_cancelled_action_is_not_done(self) -> None:
        time = EmulatedTime()
        seen: list[int] = []
        time.schedule(1.0, lambda: seen.append(1)).cancel()
        time.schedule(2.0, lambda: seen.append(2))
        assert time.run_next()
        assert seen == [2]

    def test_an_action_may_schedule_the_next_within_one_sleep(self) -> None:
        time = EmulatedTime()
        seen: list[float] = []

        def again() -> None:
            seen.append(time.now())
            time.schedule(1.0, again)

        time.schedule(1.0, again)
        time.sleep(3.5)
        assert seen == [1.0, 2.0, 3.0]

    def test_passes_with_every_register_access(self, bench: Any) -> None:
        before_s = bench.board.time.now()
        for _ in range(4):
            bench.status("mm2s")
        assert bench.board.time.now() - before_s == pytest.approx(4 * REGISTER_ACCESS_S)


class TestMemory:
    def test_the_two_sides_meet_by_flush_and_invalidate_alone(self) -> None:
        memory = DeviceMemory(1 << 20)
        block = memory.allocate(16)
        assert block.address % 4096 == 0
        assert (block.host == 0).all()
        assert (memory.read(block.address, 16) == PATTERN).all()
        block.host[:] = np.arange(16)
        memory.flush(block, 8, 4)
        assert memory.read(block.address, 16)[8:12].tolist() == [8, 9, 10, 11]
        assert (memory.read(block.address, 8) == PATTERN).all()
        memory.write(block.address, np.full(16, 7, np.uint8))
        memory.invalidate(block, 0, 4)
        assert block.host.tolist() == [7] * 4 + list(range(4, 16))

    def test_is_bounded_and_takes_back(self) -> None:
        memory = DeviceMemory(4 * 4096)
        blocks = [memory.allocate(4097) for _ in range(2)]
        assert {block.address for block in blocks} == {BASE, BASE + 8192}
        with pytest.raises(RuntimeError, match="Cannot allocate memory"):
            memory.allocate(1)
        memory.return_pointer(blocks[0].address)
        assert memory.used_bytes == 8192
        assert memory.allocate(8192).address == BASE

    def test_refuses_what_is_not_the_buffers(self) -> None:
        memory = DeviceMemory(1 << 20)
        block = memory.allocate(16)
        for offset, size_bytes in ((-8, 8), (0, 17), (1 << 40, 8)):
            with pytest.raises(RuntimeError, match="must stay within the buffer's 16 bytes"):
                memory.flush(block, offset, size_bytes)


class TestBus:
    def test_nothing_answers_before_a_download(self) -> None:
        board = EmulatedZcu102()
        with pytest.raises(BusHangError, match="no overlay was downloaded"):
            board.read(INTERFACE.window("axi_dma_0").base)

    @pytest.mark.parametrize("address", [0xA003_0000, 0x1000, 0x4_0000_0000])
    def test_nothing_answers_where_the_overlay_has_nothing(self, bench: Any, address: int) -> None:
        with pytest.raises(BusHangError, match=f"{address:#x} the overlay has nothing there"):
            bench.board.write(address, 1)

    def test_the_processing_system_answers_everywhere(self) -> None:
        board = EmulatedZcu102()
        assert board.read(0xFF0A_0000) == 0
        assert board.read(0xFF5E_0020) >> 8 & 0x7F == 90

    def test_records_transactions_inside_only(self, bench: Any) -> None:
        address = INTERFACE.window("axi_dma_0").base
        with bench.board.recording() as record:
            bench.board.write(address + 0x18, 0x7000_0000)
            bench.board.read(address + 0x18)
        bench.board.read(address)
        assert record == [
            ("write", address + 0x18, 0x7000_0000),
            ("read", address + 0x18, 0x7000_0000),
        ]


class TestKernel:
    def test_loads_and_infers_the_mirrors_bits(self, bench: Any) -> None:
        assert bench.register("weights_crc") == image_crc(bench.image)
        frames = bench.frames(5)
        np.testing.assert_array_equal(bench.infer(frames), Mirror(bench.model).run(frames))
        assert bench.errors() == set()

    def test_outputs_are_zero_before_the_first_call(self, bench: Any) -> None:
        bench.configure()
        assert bench.register("interface_version") == 0
        bench.start("clear")
        assert bench.is_done()
        assert bench.register("interface_version") == INTERFACE.version
        assert bench.register("config_hash") == int(bench.model.config_hash[:16], 16)

    def test_done_and_valid_are_cleared_by_reading(self, bench: Any) -> None:
        bench.begin(bench.frames(1))
        assert bench.board.read(bench.KERNEL) & (START | DONE) == START
        bench.board.time.sleep(0.01)
        assert bench.board.read(bench.KERNEL) & (START | DONE | READY) == DONE | READY
        assert bench.board.read(bench.KERNEL) & (DONE | READY) == 0
        valid = bench.KERNEL + INTERFACE.register("cycles").words[-1][1]
        assert [bench.board.read(valid) for _ in range(2)] == [1, 0]

    def test_takes_the_cycles_it_counts(self, bench: Any) -> None:
        bench.begin(bench.frames(1))
        before_s = bench.board.time.now()
        while not bench.board.read(bench.KERNEL) & DONE:
            pass
        seconds = bench.board.time.now() - before_s
        assert bench.register("cycles") / INTERFACE.clock_hz == pytest.approx(
            seconds, abs=2 * SETUP_S + 2 * REGISTER_ACCESS_S
        )

    def test_a_packet_without_start_waits_in_the_stream(self, bench: Any) -> None:
        frames = bench.frames(1)
        bench.send(np.frombuffer(frames.tobytes(), "<u8"))
        bench.board.time.sleep(1.0)
        assert bench.status("mm2s") & (HALTED | IDLE) == 0
        block = bench.receive(bench.answer_words(1))
        bench.start("infer", 1)
        assert bench.is_done()
        assert bench.status("mm2s") & IDLE
        np.testing.assert_array_equal(bench.taken(block), Mirror(bench.model).run(frames))

    def test_an_answer_without_room_keeps_the_kernel_waiting(self, bench: Any) -> None:
        frames = bench.frames(1)
        bench.start("infer", 1)
        bench.send(np.frombuffer(frames.tobytes(), "<u8"))
        assert not bench.is_done(within_s=1.0)
        block = bench.receive(bench.answer_words(1))
        assert bench.is_done()
        np.testing.assert_array_equal(bench.taken(block), Mirror(bench.model).run(frames))

    def test_an_unknown_command_ends_at_once_and_leaves_the_packet(self, bench: Any) -> None:
        bench.board.write(bench.KERNEL + INTERFACE.register("command").offset, 9)
        bench.board.write(bench.KERNEL, START)
        bench.send(bench.image)
        assert bench.is_done()
        assert bench.errors() == {"unknown_command"}
        assert bench.status("mm2s") & IDLE == 0

    @pytest.mark.parametrize("command", ["infer", "load"])
    def test_a_call_for_nothing_waits_for_no_packet(self, bench: Any, command: str) -> None:
        bench.start(command, 0)
        assert bench.is_done()
        assert bench.errors() == {"wrong_count"}

    def test_the_last_words_bytes_reach_the_kernel(self, bench: Any) -> None:
        words = np.frombuffer(bench.frames(1).tobytes(), "<u8")
        bench.start("infer", 1)
        bench.receive(bench.answer_words(1))
        block = bench.board.allocate(words.nbytes)
        bench.transfer("mm2s", block, words.nbytes - 4)
        assert bench.is_done()
        assert bench.errors() == {"input_short"}

    def test_restarts_by_itself_when_told_to(self, bench: Any) -> None:
        frames = bench.frames(1)
        words = np.frombuffer(frames.tobytes(), "<u8")
        bench.board.write(bench.KERNEL, 1 << 7)
        first = bench.begin(frames)
        bench.board.write(bench.KERNEL, 1 << 7)
        assert bench.is_done()
        second = bench.receive(bench.answer_words(1))
        bench.send(words)
        assert bench.is_done()
        np.testing.assert_array_equal(bench.taken(first), bench.taken(second))


class TestDma:
    def test_registers_after_reset(self, bench: Any) -> None:
        bench.board.write(bench.DMA + 0x30, 4)
        for offset in (0x00, 0x30):
            assert bench.board.read(bench.DMA + offset) == 0x0001_0002
            assert bench.board.read(bench.DMA + offset + 4) == 0x0001_0001
        bench.board.write(bench.DMA, 1)
        assert bench.status("mm2s") & (HALTED | IDLE) == 0
        assert bench.status("s2mm") & HALTED

    def test_a_length_does_nothing_on_a_halted_or_busy_channel(self, bench: Any) -> None:
        block = bench.board.allocate(64)
        bench.transfer("mm2s", block, 64)
        bench.board.write(bench.DMA + 0x28, 8)
        assert bench.board.read(bench.DMA + 0x28) == 64
        bench.board.write(bench.DMA, 4)
        bench.transfer("mm2s", block, 64)
        bench.board.write(bench.DMA, 1)
        assert bench.board.read(bench.DMA + 0x28) == 0

    def test_stop_waits_for_the_transfer(self, bench: Any) -> None:
        block = bench.begin(bench.frames(1))
        bench.board.write(bench.DMA + 0x30, 0)
        assert bench.status("s2mm") & HALTED == 0
        assert bench.is_done()
        assert bench.status("s2mm") & (HALTED | IDLE) == HALTED
        assert bench.taken(block).any()

    def test_tells_how_much_it_received(self, bench: Any) -> None:
        bench.start("infer", 1)
        block = bench.receive(bench.answer_words(4))
        bench.send(np.frombuffer(bench.frames(1).tobytes(), "<u8"))
        assert bench.is_done()
        assert bench.board.read(bench.DMA + 0x58) == 8 * bench.answer_words(1)
        assert bench.status("s2mm") & (IDLE | COMPLETE) == IDLE | COMPLETE
        bench.board.write(bench.DMA + 0x34, COMPLETE)
        assert bench.status("s2mm") & COMPLETE == 0
        bench.board.invalidate(block, 0, len(block.host))
        assert (block.host[8 * bench.answer_words(1) :] == PATTERN).all()

    def test_a_packet_longer_than_the_buffer_fills_it_and_halts(self, bench: Any) -> None:
        frames = bench.frames(2)
        bench.start("infer", 2)
        first = bench.receive(bench.answer_words(1))
        bench.send(np.frombuffer(frames.tobytes(), "<u8"))
        assert not bench.is_done()
        assert bench.status("s2mm") & (HALTED | INTERNAL) == HALTED | INTERNAL
        bench.start_dma()
        second = bench.receive(bench.answer_words(1))
        assert bench.is_done()
        answer = np.concatenate([bench.taken(first), bench.taken(second)])
        np.testing.assert_array_equal(answer, Mirror(bench.model).run(frames))

    @pytest.mark.parametrize(
        ("address", "size_bytes", "error"),
        [
            (BASE, 0, INTERNAL),
            (BASE + 4, 8, INTERNAL),
            (BASE - 8, 16, DECODE),
            (BASE + (256 << 20) - 8, 16, DECODE),
            (0x8_0000_0000, 8, DECODE),
        ],
    )
    @pytest.mark.parametrize("channel", ["mm2s", "s2mm"])
    def test_an_error_halts_until_reset(
        self, bench: Any, channel: str, address: int, size_bytes: int, error: int
    ) -> None:
        base = bench.DMA + (0x30 if channel == "s2mm" else 0)
        bench.board.write(base + 0x18, address & 0xFFFF_FFFF)
        bench.board.write(base + 0x1C, address >> 32)
        bench.board.write(base + 0x28, size_bytes)
        bench.board.time.sleep(1e-3)
        assert bench.status(channel) & (0x70 | HALTED | IDLE) == error | HALTED
        assert bench.board.read(base) & 1 == 0
        bench.board.write(base, 1)
        assert bench.status(channel) & HALTED
        assert bench.board.read(base) & 1 == 0
        bench.start_dma()
        assert bench.status(channel) & (0x70 | HALTED) == 0

    def test_a_reset_in_a_packet_leaves_its_beginning_in_the_kernel(self, bench: Any) -> None:
        bench.start("load", len(bench.image))
        bench.send(bench.image)
        bench.board.time.sleep(SETUP_S + len(bench.image) / 2 / INTERFACE.clock_hz)
        bench.start_dma()
        assert not bench.is_done()
        bench.send(bench.image)
        assert bench.is_done()
        assert bench.errors() == {"input_long"}

    def test_a_buffer_changed_too_early_shows(self, bench: Any) -> None:
        frames = bench.frames(1)
        bench.start("infer", 1)
        answer = bench.receive(bench.answer_words(1))
        block = bench.send(np.frombuffer(frames.tobytes(), "<u8"))
        block.host[:] = 0
        bench.board.flush(block, 0, len(block.host))
        assert bench.is_done()
        expected = Mirror(bench.model).run(np.zeros_like(frames))
        np.testing.assert_array_equal(bench.taken(answer), expected)


class TestInterrupts:
    def test_level_inputs_stay_pending_until_acknowledged(self, bench: Any) -> None:
        isr, ipr, ack, enable, vector, master = (
            bench.INTC + offset for offset in (0x00, 0x04, 0x0C, 0x10, 0x18, 0x1C)
        )
        bench.start_dma()
        bench.board.write(master, 3)
        assert bench.board.read(vector) == 0xFFFF_FFFF
        bench.infer(bench.frames(1))
        assert bench.board.read(isr) == 0b011
        assert bench.board.read(ipr) == 0
        bench.board.write(enable, 0b010)
        assert bench.board.read(ipr) == 0b010
        assert bench.board.read(vector) == 1
        bench.board.write(ack, 0b010)
        assert bench.board.read(isr) == 0b011
        bench.board.write(bench.DMA + 0x34, COMPLETE)
        bench.board.write(ack, 0b010)
        assert bench.board.read(isr) == 0b001

    def test_the_kernel_interrupts_where_it_is_told_to(self, bench: Any) -> None:
        at = {register.name: bench.KERNEL + register.offset for register in INTERFACE.registers}
        bench.board.write(bench.INTC + 0x1C, 3)
        bench.start("clear")
        assert bench.is_done()
        assert bench.board.read(at["IP_ISR"]) == 0
        bench.board.write(at["GIER"], 1)
        bench.board.write(at["IP_IER"], 1)
        bench.start("clear")
        bench.board.time.sleep(0.01)
        assert bench.board.read(at["IP_ISR"]) == 1
        assert bench.board.read(bench.INTC) & 0b100
        assert bench.board.read(bench.KERNEL) & 1 << 9
        bench.board.write(at["IP_ISR"], 1)
        assert bench.board.read(at["IP_ISR"]) == 0
        assert not bench.board.read(bench.KERNEL) & 1 << 9


def test_a_download_starts_all_parts_afresh(bench: Any) -> None:
    bench.begin(bench.frames(1))
    bench.configure()
    assert bench.board.read(bench.KERNEL) == 4
    assert bench.register("weights_crc") == 0
    assert bench.board.read(bench.DMA + 0x28) == 0
    assert not bench.board.time.run_next()
    bench.load()
    frames = bench.frames(2)
    np.testing.assert_array_equal(bench.infer(frames), Mirror(bench.model).run(frames))
