"""The host's bounded streams: they name what is stuck, what is left, and keep time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import csim
from csim import Kernel, compile_kernel, load_kernel
from emamba.export.image import weights_image
from emamba.export.presets import preset
from random_models import MARS_CONFIG, random_model

MODEL = random_model(MARS_CONFIG, 0)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("streams") / "streams"
    root = csim.kernel_root()
    csim.run_compiler(
        "-std=c++17", "-O1", *csim.PLAIN, "-DEMAMBA_SIMULATE", f"-I{root / 'include'}",
        f"-I{root / 'host'}", str(Path(__file__).with_name("streams.cpp")), "-o", str(out),
    )  # fmt: skip
    return out


def test_a_slow_reader_holds_the_writer_up(program: Path) -> None:
    """The first item, written in 1 + 3, is read in 5; then one every 2 cycles, item 95 in 195.

    The last, item 99, takes the slot that item 95 has left.
    """
    assert csim.run_program(program, "flow") == "peak 4, last written in cycle 196\n"


def test_a_deadlock_names_processes_and_streams(program: Path) -> None:
    assert csim.run_program(program, "full") == (
        "deadlock: produce_both waits, stream first is FULL; "
        "consume_crosswise waits, stream second is EMPTY\n"
    )
    assert csim.run_program(program, "empty") == (
        "deadlock: consume waits, stream first is EMPTY\n"
    )


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return load_kernel(compile_kernel(MODEL, preset("small", MARS_CONFIG)), MODEL)


def test_a_packet_that_is_too_short_is_a_deadlock(kernel: Kernel) -> None:
    with pytest.raises(RuntimeError, match="dispatch_stage waits, stream in is EMPTY"):
        kernel.call(2 << 32, np.zeros(40, np.uint64), 31)


def test_a_packet_that_is_too_long_is_left_over(kernel: Kernel) -> None:
    with pytest.raises(RuntimeError, match="stream in is left with 3 items"):
        kernel.call(1 << 32, np.zeros(43, np.uint64), 16)


def test_an_image_of_another_length_stops_the_load(kernel: Kernel) -> None:
    image = weights_image(MODEL)[:-1]
    with pytest.raises(RuntimeError, match=r"deadlock: .*head_fc2_stage waits, stream chain_"):
        kernel.call(len(image) << 32 | 1, image, 1)
    kernel.load(MODEL)


def test_designed_depths_hold_without_a_deadlock(kernel: Kernel) -> None:
    """Bounded and unbounded runs give the same; no stream ever held more than it may."""
    batch = np.random.default_rng(0).integers(-127, 128, (5, 8, 8, 5)).astype(np.int8)
    unbounded, _ = kernel.infer(batch, bounded=False)
    bounded, _ = kernel.infer(batch, watched=True)
    np.testing.assert_array_equal(bounded, unbounded)
    inner = [name for name in kernel.streams() if kernel.depth(name) > 0]
    assert len(inner) > 30
    for name in inner:
        assert 0 < kernel.peak(name) <= kernel.depth(name), name
