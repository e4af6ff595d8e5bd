"""Each fault of the emulated board does what its name says; mending is the driver's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from emamba.export.image import image_crc
from emamba.fixed import Mirror
from emamba_service.emulator import KINDS, Faults, parse
from emamba_service.emulator.faults import DMA_ERRORS

HALTED, IDLE, COMPLETE = 1 << 0, 1 << 1, 1 << 12
ERROR_BIT = dict(zip(DMA_ERRORS, (1 << 4, 1 << 5, 1 << 6), strict=True))


def flipped_bits(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> int:
    return int(np.unpackbits(left.view(np.uint8) ^ right.view(np.uint8)).sum())


class TestPlans:
    def test_once_after_some_occasions(self) -> None:
        faults = Faults()
        faults.arm("output_flip", after=2)
        assert [faults.strikes("output_flip") for _ in range(5)] == [False, False, True] + 2 * [
            False
        ]
        assert faults.injected == {"output_flip": 1}

    def test_counts_occasions_of_its_own_kind_only(self) -> None:
        faults = Faults()
        faults.arm("output_flip", after=1)
        assert not faults.strikes("input_flip")
        assert not faults.strikes("output_flip")
        assert faults.strikes("output_flip")

    def test_always_and_until_cleared(self) -> None:
        faults = Faults()
        faults.arm("output_flip", rate=1)
        assert all(faults.strikes("output_flip") for _ in range(100))
        faults.clear()
        assert not faults.strikes("output_flip")
        assert faults.injected == {"output_flip": 100}

    def test_a_rate_is_kept_and_a_seed_repeats_it(self) -> None:
        def course(seed: int) -> list[bool]:
            faults = parse("output_flip:0.1", seed)
            return [faults.strikes("output_flip") for _ in range(2000)]

        assert course(1) == course(1)
        assert course(1) != course(2)
        # Six standard deviations around 200.
        assert 120 < sum(course(1)) < 280

    def test_a_shorthand_picks_one_of_its_kinds_at_a_time(self) -> None:
        faults = parse("dma_error:1", seed=3)
        members = [kind for kind in KINDS if kind.startswith("dma_error_")]
        for _ in range(60):
            assert sum(faults.strikes(kind) for kind in members) >= 1
        assert set(faults.injected) == set(members)
        faults = Faults(seed=3)
        faults.arm("dma_hang")
        both = ("dma_hang_mm2s", "dma_hang_s2mm")
        assert sum(faults.strikes(kind) for kind in both for _ in range(9)) == 1

    def test_parses_a_setting(self) -> None:
        faults = parse(" output_flip:1, dma_hang_mm2s@1 ,")
        assert faults.strikes("output_flip")
        assert [faults.strikes("dma_hang_mm2s") for _ in range(3)] == [False, True, False]
        assert not parse("").strikes("output_flip")

    @pytest.mark.parametrize(
        "item",
        [
            "output_flip",
            "output_flip:",
            "output_flip:0",
            "output_flip:1.5",
            "output_flip:nan",
            "output_flip:x",
            "output_flip@-1",
            "output_flip@0.5",
            "output_flap:0.1",
            ":1",
        ],
    )
    def test_refuses_another_text_in_one_sentence(self, item: str) -> None:
        with pytest.raises(ValueError, match=f"not {re.escape(repr(item))}$") as caught:
            parse(f"input_flip:0.1,{item}")
        assert all(kind in str(caught.value) for kind in KINDS)
        assert "\n" not in str(caught.value)

    def test_only_the_overlay_can_be_gone_for_good(self) -> None:
        with pytest.raises(ValueError, match="only overlay_gone can be persistent"):
            Faults().arm("output_flip", persistent=True)


def test_a_hung_sender_never_ends_and_has_sent_a_part(bench: Any) -> None:
    bench.faults.arm("dma_hang_mm2s")
    frames = bench.frames(4)
    bench.begin(frames)
    assert not bench.is_done(within_s=1e6)
    assert bench.status("mm2s") & (HALTED | IDLE) == 0
    assert bench.faults.injected == {"dma_hang_mm2s": 1}
    bench.start_dma()
    bench.receive(bench.answer_words(4))
    bench.send(np.frombuffer(frames.tobytes(), "<u8"))
    assert bench.is_done()
    assert bench.errors() == {"input_long"}


def test_a_hung_receiver_never_ends_and_leaves_the_answer_to_the_next(bench: Any) -> None:
    bench.faults.arm("dma_hang_s2mm")
    frames = bench.frames(1)
    bench.begin(frames)
    assert not bench.is_done(within_s=1e6)
    assert bench.status("mm2s") & IDLE
    assert bench.status("s2mm") & (HALTED | IDLE | COMPLETE) == 0
    bench.start_dma()
    block = bench.receive(bench.answer_words(1))
    assert bench.is_done()
    np.testing.assert_array_equal(bench.taken(block), Mirror(bench.model).run(frames))


@pytest.mark.parametrize("channel", ["mm2s", "s2mm"])
@pytest.mark.parametrize("error", DMA_ERRORS)
def test_an_error_halts_its_channel_until_reset(bench: Any, channel: str, error: str) -> None:
    bench.faults.arm(f"dma_error_{error}_{channel}")
    frames = bench.frames(1)
    bench.begin(frames)
    assert not bench.is_done()
    assert bench.status(channel) & (0x70 | HALTED | IDLE) == ERROR_BIT[error] | HALTED
    other = {"mm2s": "s2mm", "s2mm": "mm2s"}[channel]
    assert bench.status(other) & (0x70 | HALTED) == 0
    bench.start_dma()
    block = bench.receive(bench.answer_words(1))
    if channel == "mm2s":
        bench.send(np.frombuffer(frames.tobytes(), "<u8"))
    assert bench.is_done()
    np.testing.assert_array_equal(bench.taken(block), Mirror(bench.model).run(frames))


def test_a_wrong_identity_lasts_until_the_next_download(bench: Any) -> None:
    right = int(bench.model.config_hash[:16], 16)
    bench.faults.arm("wrong_identity")
    bench.configure()
    for _ in range(2):
        bench.load()
        assert (bench.register("config_hash") ^ right).bit_count() == 1
    bench.configure()
    bench.load()
    assert bench.register("config_hash") == right


def test_a_flipped_weight_changes_answers_but_no_register(bench: Any) -> None:
    frames = bench.frames(64)
    expected = Mirror(bench.model).run(frames)
    bench.faults.arm("weight_flip", after=1)
    np.testing.assert_array_equal(bench.infer(frames), expected)
    for _ in range(2):
        assert (bench.infer(frames) != expected).any()
        assert bench.register("weights_crc") == image_crc(bench.image)
        assert bench.errors() == set()
    bench.load()
    np.testing.assert_array_equal(bench.infer(frames), expected)
    assert bench.faults.injected == {"weight_flip": 1}


def test_after_a_flipped_weight_another_image_shows_its_own_crc(bench: Any) -> None:
    bench.faults.arm("weight_flip")
    bench.infer(bench.frames(1))
    other = bench.image.copy()
    other[1] ^= np.uint64(1)
    bench.start("load", len(other))
    bench.send(other)
    assert bench.is_done()
    assert bench.register("weights_crc") == image_crc(other)


def test_a_flipped_output_is_one_bit_of_the_answer(bench: Any) -> None:
    frames = bench.frames(1)
    right = bench.begin(frames)
    assert bench.is_done()
    bench.taken(right)
    crc = bench.register("answer_crc")
    bench.faults.arm("output_flip")
    wrong = bench.begin(frames)
    assert bench.is_done()
    bench.taken(wrong)
    assert flipped_bits(right.host, wrong.host) == 1
    assert bench.register("answer_crc") == crc


def test_a_flipped_input_reaches_the_kernel(bench: Any) -> None:
    frames = bench.frames(1)
    bench.infer(frames)
    crc = bench.register("input_crc")
    bench.faults.arm("input_flip")
    bench.infer(frames)
    assert bench.register("input_crc") != crc
    assert bench.errors() == set()
    bench.infer(frames)
    assert bench.register("input_crc") == crc


def test_a_lost_interrupt_leaves_the_controller_unaware(bench: Any) -> None:
    bench.start_dma()
    bench.board.write(bench.INTC + 0x1C, 3)
    bench.faults.arm("interrupt_lost", after=1)
    bench.infer(bench.frames(1))
    assert bench.status("s2mm") & COMPLETE
    assert bench.board.read(bench.INTC) == 0b01
    bench.start_dma()
    bench.infer(bench.frames(1))
    assert bench.board.read(bench.INTC) == 0b11


def test_a_spurious_interrupt_comes_before_the_end(bench: Any) -> None:
    bench.board.write(bench.INTC + 0x1C, 3)
    bench.start_dma()
    bench.board.write(bench.INTC + 0x0C, 7)
    bench.faults.arm("interrupt_spurious")
    bench.receive(bench.answer_words(1))
    assert bench.status("s2mm") & COMPLETE == 0
    assert bench.board.read(bench.INTC) == 0b10


def test_memory_is_exhausted_once(bench: Any) -> None:
    bench.faults.arm("cma_exhausted")
    with pytest.raises(RuntimeError, match="Cannot allocate memory"):
        bench.board.allocate(8)
    assert len(bench.board.allocate(8).host) == 8


def test_a_slow_kernel_ends_late_and_right(bench: Any) -> None:
    frames = bench.frames(1)
    bench.faults.slow_factor = 1e6
    bench.faults.arm("slow_kernel")
    block = bench.begin(frames)
    assert not bench.is_done(within_s=1.0)
    assert bench.is_done(within_s=10.0)
    np.testing.assert_array_equal(bench.taken(block), Mirror(bench.model).run(frames))


class TestOverlayGone:
    def test_reads_give_ones_and_writes_vanish_until_a_download(self, bench: Any) -> None:
        bench.faults.arm("overlay_gone", after=1)
        assert bench.register("weights_crc") == image_crc(bench.image)
        bench.start("clear")
        assert bench.board.read(bench.KERNEL) == 0xFFFF_FFFF
        assert bench.status("mm2s") == 0xFFFF_FFFF
        assert not bench.board.time.run_next()
        bench.configure()
        bench.load()
        assert bench.register("weights_crc") == image_crc(bench.image)

    def test_the_processing_system_stays(self, bench: Any) -> None:
        bench.faults.arm("overlay_gone")
        assert bench.board.read(0xFF5E_0020) >> 8 & 0x7F == 90
        assert bench.faults.injected == {}

    def test_nothing_under_way_ends(self, bench: Any) -> None:
        bench.begin(bench.frames(1))
        bench.faults.arm("overlay_gone")
        bench.status("mm2s")
        assert not bench.board.time.run_next()

    @pytest.mark.parametrize("how", [{"persistent": True}, {"rate": 1.0}])
    def test_may_be_for_good(self, bench: Any, how: dict[str, Any]) -> None:
        bench.faults.arm("overlay_gone", **how)
        for _ in range(2):
            bench.configure()
            assert bench.board.read(bench.KERNEL) == 0xFFFF_FFFF
