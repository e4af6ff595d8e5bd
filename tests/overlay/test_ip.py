"""The outermost function in C simulation: packets, registers and every error flag."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from emamba.export import export_hls
from emamba.export.image import image_crc, weights_image
from emamba.export.interface import COMMANDS, ERRORS, INTERFACE
from emamba.fixed import IntegerModel, Mirror
from emamba.package import load_package
from emamba.simulated import SimulatedCall, SimulatedKernel

ROOT = Path(__file__).resolve().parents[2]

FRAME_WORDS = 6
OUTPUT_WORDS = 2


def frames_of(model: IntegerModel, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (count, *model.config.input_shape)).astype(np.int8)


def packet_of(frames: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(frames.tobytes(), "<u8")


def outputs_of(answer: SimulatedCall, n_outputs: int) -> npt.NDArray[np.int16]:
    return answer.words.view("<i2").reshape(-1, 4 * OUTPUT_WORDS)[:, :n_outputs]


def errors_of(kernel: SimulatedKernel) -> set[str]:
    value = kernel.register("errors")
    return {name for bit, name in enumerate(ERRORS) if value >> bit & 1}


def load(kernel: SimulatedKernel, model: IntegerModel) -> None:
    image = weights_image(model)
    assert len(kernel.call(COMMANDS["load"], len(image), image).words) == 0


def test_loads_and_infers_the_mirrors_bits(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    for count in (1, 3):
        frames = frames_of(small_model, count, seed=count)
        answer = kernel.call(COMMANDS["infer"], count, packet_of(frames))
        expected = Mirror(small_model).run(frames)
        np.testing.assert_array_equal(outputs_of(answer, small_model.config.n_outputs), expected)
        assert answer.last.tolist() == [False] * (count * OUTPUT_WORDS - 1) + [True]
        assert set(answer.keep) == {0xFF}
    assert errors_of(kernel) == set()


def test_the_first_call_of_any_kind_shows_who_it_is(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    kernel.call(COMMANDS["clear"], 0, np.array([]))
    assert kernel.register("interface_version") == INTERFACE.version
    assert kernel.register("config_hash") == int(small_model.config_hash[:16], 16)
    assert kernel.register("weights_crc") == 0
    load(kernel, small_model)
    assert kernel.register("weights_crc") == image_crc(weights_image(small_model))


def test_counts_the_cycles_of_a_call(kernel: SimulatedKernel, small_model: IntegerModel) -> None:
    load(kernel, small_model)
    kernel.watch()
    counted = []
    for count in (1, 2, 4):
        kernel.call(COMMANDS["infer"], count, packet_of(frames_of(small_model, count)))
        counted.append(kernel.register("cycles"))
        (done,) = kernel.write_cycles("done")
        assert counted[-1] == done + 1
        # The status word is a few cycles behind the answer's last word: the depth of its way.
        assert 0 <= done - kernel.write_cycles("m_axis_out")[-1] <= 16
    assert counted[0] < counted[1] < counted[2]
    kernel.call(COMMANDS["clear"], 0, np.array([]))
    assert 0 < kernel.register("cycles") < counted[0]


def crc_of(words: npt.NDArray[np.uint64]) -> int:
    return zlib.crc32(words.astype("<u8").tobytes())


def crcs_of(kernel: SimulatedKernel) -> tuple[int, int]:
    return kernel.register("input_crc"), kernel.register("answer_crc")


def test_the_crcs_are_of_what_the_last_call_took_and_gave(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    image = weights_image(small_model)
    assert crcs_of(kernel) == (crc_of(image), 0)
    for count in (1, 4):
        packet = packet_of(frames_of(small_model, count, seed=count))
        answer = kernel.call(COMMANDS["infer"], count, packet)
        assert crcs_of(kernel) == (crc_of(packet), crc_of(answer.words))
        assert kernel.register("weights_crc") == crc_of(image)
    kernel.call(COMMANDS["clear"], 0, np.array([]))
    assert crcs_of(kernel) == (0, 0)


@pytest.mark.parametrize("word", [0, FRAME_WORDS, 2 * FRAME_WORDS - 1])
@pytest.mark.parametrize("bit", [0, 31, 32, 63])
def test_a_bit_that_turns_on_its_way_changes_the_input_crc(
    kernel: SimulatedKernel, small_model: IntegerModel, word: int, bit: int
) -> None:
    load(kernel, small_model)
    sent = packet_of(frames_of(small_model, 2))
    arrived = sent.copy()
    arrived[word] ^= np.uint64(1 << bit)
    kernel.call(COMMANDS["infer"], 2, arrived)
    assert errors_of(kernel) == set()
    assert kernel.register("input_crc") == crc_of(arrived) != crc_of(sent)


def test_the_input_crc_leaves_out_what_is_filled_in_or_dropped(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    packet = packet_of(frames_of(small_model, 2))
    short = kernel.call(COMMANDS["infer"], 2, packet[:3])
    assert crcs_of(kernel) == (crc_of(packet[:3]), crc_of(short.words))
    long = kernel.call(COMMANDS["infer"], 1, packet)
    assert crcs_of(kernel) == (crc_of(packet[:FRAME_WORDS]), crc_of(long.words))
    kernel.call(COMMANDS["load"], 1, packet[:1])
    assert crcs_of(kernel) == (0, 0)


@pytest.mark.parametrize("words", [1, 2 * FRAME_WORDS - 1])
def test_a_short_packet_is_flagged_and_filled_with_zeros(
    kernel: SimulatedKernel, small_model: IntegerModel, words: int
) -> None:
    load(kernel, small_model)
    frames = frames_of(small_model, 2)
    answer = kernel.call(COMMANDS["infer"], 2, packet_of(frames)[:words])
    assert errors_of(kernel) == {"input_short"}
    filled = np.zeros(frames.size, np.int8)
    filled[: 8 * words] = frames.ravel()[: 8 * words]
    expected = Mirror(small_model).run(filled.reshape(frames.shape))
    np.testing.assert_array_equal(outputs_of(answer, small_model.config.n_outputs), expected)
    assert answer.last[-1]


def test_a_packet_that_ends_within_a_word_is_short(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    kernel.call(COMMANDS["infer"], 1, packet_of(frames_of(small_model, 1)), last_keep=0x0F)
    assert errors_of(kernel) == {"input_short"}


def test_the_rest_of_a_long_packet_is_dropped(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    frames = frames_of(small_model, 2)
    answer = kernel.call(COMMANDS["infer"], 1, packet_of(frames))
    assert errors_of(kernel) == {"input_long"}
    expected = Mirror(small_model).run(frames[:1])
    np.testing.assert_array_equal(outputs_of(answer, small_model.config.n_outputs), expected)


def test_inference_before_loading_is_flagged_and_answered(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    answer = kernel.call(COMMANDS["infer"], 1, packet_of(frames_of(small_model, 1)))
    assert errors_of(kernel) == {"not_loaded"}
    assert len(answer.words) == OUTPUT_WORDS


@pytest.mark.parametrize(("extra", "flag"), [(-1, "input_short"), (1, "input_long")])
def test_an_image_of_wrong_length_does_not_count_as_loaded(
    kernel: SimulatedKernel, small_model: IntegerModel, extra: int, flag: str
) -> None:
    image = weights_image(small_model)
    packet = np.resize(image, len(image) + extra)
    kernel.call(COMMANDS["load"], len(image), packet)
    assert errors_of(kernel) == {flag}
    kernel.call(COMMANDS["infer"], 1, packet_of(frames_of(small_model, 1)))
    assert errors_of(kernel) == {flag, "not_loaded"}


def test_a_load_of_another_count_is_refused_and_keeps_the_weights(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    crc = kernel.register("weights_crc")
    for count in (0, 1, len(weights_image(small_model)) + 1):
        kernel.call(COMMANDS["load"], count, np.arange(count, dtype=np.uint64))
        assert errors_of(kernel) == {"wrong_count"}
    assert kernel.register("weights_crc") == crc
    frames = frames_of(small_model, 1)
    answer = kernel.call(COMMANDS["infer"], 1, packet_of(frames))
    expected = Mirror(small_model).run(frames)
    np.testing.assert_array_equal(outputs_of(answer, small_model.config.n_outputs), expected)


@pytest.mark.parametrize("count", [0, 4097])
def test_an_inference_of_no_or_too_many_frames_is_refused(
    kernel: SimulatedKernel, small_model: IntegerModel, count: int
) -> None:
    load(kernel, small_model)
    packet = packet_of(frames_of(small_model, 1))[: FRAME_WORDS * min(count, 1)]
    assert len(kernel.call(COMMANDS["infer"], count, packet).words) == 0
    assert errors_of(kernel) == {"wrong_count"}


def test_an_unknown_command_takes_no_packet(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    assert len(kernel.call(7, 1, np.array([])).words) == 0
    assert errors_of(kernel) == {"unknown_command"}
    load(kernel, small_model)
    assert errors_of(kernel) == {"unknown_command"}


def test_clear_forgets_errors_and_saturation_but_not_the_weights(
    kernel: SimulatedKernel, small_model: IntegerModel
) -> None:
    load(kernel, small_model)
    kernel.call(7, 0, np.array([]))
    frames = frames_of(small_model, 2)
    kernel.call(COMMANDS["infer"], 2, packet_of(frames))
    assert kernel.register("saturated") == saturated_mask(small_model, frames) > 0
    kernel.call(COMMANDS["clear"], 0, np.array([]))
    assert errors_of(kernel) == set()
    assert kernel.register("saturated") == 0
    kernel.call(COMMANDS["infer"], 2, packet_of(frames))
    assert errors_of(kernel) == set()


def saturated_mask(model: IntegerModel, frames: npt.NDArray[np.int8]) -> int:
    """The mask that the mirror's own counts give."""
    names = INTERFACE.register("saturated").bits
    counts = Mirror(model).trace(frames).saturated
    seen = {re.sub(r"^blocks\.\d+\.", "", name) for name, count in counts.items() if count}
    return sum(
        1 << bit for bit, name in enumerate(names) if name in {s.replace(".", "_") for s in seen}
    )


def test_equals_the_golden_vectors_where_processes_run_in_order(tmp_path: Path) -> None:
    """As a vendor's C simulation does it: C++14, streams without an end, one process at a time."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    export_hls(load_package(ROOT / "models" / "mars" / "1"), "small", tmp_path)
    sources = [tmp_path / "ip.cpp", tmp_path / "top.cpp", ROOT / "hls" / "test" / "testbench.cpp"]
    folders = [tmp_path, ROOT / "hls" / "include", Path(__file__).with_name("sequential")]
    # Last, so that its hls_stream.h is not the one that is found.
    folders.append(ROOT / "hls" / "host")
    flags = ["-std=c++14", "-O1", "-DEMAMBA_PLAIN_INTS", "-DEMAMBA_IP", "-w"]
    flags += [f"-I{folder}" for folder in folders]
    program = tmp_path / "testbench"
    subprocess.run([compiler, *flags, *sources, "-o", program], check=True, timeout=300)
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
