"""The whole kernel as a library: the mirror's bits, its registers, and what it refuses."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings

from csim import pack_frames
from emamba.compiler import Compiler, NativeError
from emamba.config import ModelConfig
from emamba.export.folding import native_folding
from emamba.export.golden import golden_frames, saturation_mask
from emamba.export.image import image_crc, image_words, weights_image
from emamba.export.interface import COMMANDS, INTERFACE
from emamba.export.presets import PRESETS, PresetError
from emamba.export.sources import kernel_root
from emamba.fixed import IntegerModel, Mirror
from emamba.package import load_package
from emamba.simulated import SimulatedKernel, SimulationError, build_simulation
from random_configs import configs
from random_models import random_model

ROOT = Path(__file__).resolve().parents[2]
TINY = ModelConfig(
    input_height=4,
    input_width=4,
    input_channels=1,
    n_outputs=3,
    d_model=4,
    n_layer=1,
    d_state=2,
    d_conv=2,
    expand=1,
    dt_rank=1,
    patch=2,
    head_width=2,
)
NOTHING = np.array([], np.uint64)


@pytest.fixture(scope="module")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    return build_simulation(TINY, native_folding(TINY), Compiler.find(), folder)


@pytest.fixture
def tiny(tiny_library: Path) -> Iterator[SimulatedKernel]:
    kernel = SimulatedKernel(tiny_library)
    yield kernel
    kernel.close()


def load(kernel: SimulatedKernel, model: IntegerModel) -> None:
    image = weights_image(model)
    assert len(kernel.call(COMMANDS["load"], len(image), image).words) == 0


def infer(
    kernel: SimulatedKernel, model: IntegerModel, batch: npt.NDArray[np.int8]
) -> npt.NDArray[np.int16]:
    words = kernel.call(COMMANDS["infer"], len(batch), pack_frames(batch)).words
    return words.view("<i2").reshape(len(batch), -1)[:, : model.config.n_outputs]


def frames(config: ModelConfig, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (count, *config.input_shape)).astype(np.int8)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_shipped_model_gives_the_mirrors_bits_and_registers(
    preset: str, tmp_path: Path
) -> None:
    model = load_package(ROOT / "models" / "mars" / "1").model
    kernel = SimulatedKernel(build_simulation(model.config, preset, Compiler.find(), tmp_path))
    load(kernel, model)
    batch = np.concatenate([golden_frames(model.config), frames(model.config, 20)])
    np.testing.assert_array_equal(infer(kernel, model, batch), Mirror(model).run(batch))
    answer = kernel.call(COMMANDS["infer"], len(batch), pack_frames(batch)).words
    registers = {r.name: kernel.register(r.name) for r in INTERFACE.registers if r.is_output}
    assert registers.pop("cycles") > len(batch)
    expected = {
        "input_crc": zlib.crc32(pack_frames(batch).astype("<u8").tobytes()),
        "interface_version": INTERFACE.version,
        "config_hash": int(model.config_hash[:16], 16),
        "weights_crc": image_crc(weights_image(model)),
        "errors": 0,
        "saturated": saturation_mask(Mirror(model).trace(batch)),
        "answer_crc": zlib.crc32(answer.astype("<u8").tobytes()),
    }
    assert registers == expected
    kernel.close()


def test_two_kernels_of_one_library_share_nothing(tiny_library: Path) -> None:
    models = [random_model(TINY, seed) for seed in (0, 1)]
    kernels = [SimulatedKernel(tiny_library) for _ in models]
    batch = frames(TINY, 5)
    for kernel, model in zip(kernels, models, strict=True):
        load(kernel, model)
    for kernel, model in zip(kernels, models, strict=True):
        np.testing.assert_array_equal(infer(kernel, model, batch), Mirror(model).run(batch))
    crcs = [kernel.register("weights_crc") for kernel in kernels]
    assert crcs == [image_crc(weights_image(model)) for model in models]
    kernels[0].close()
    np.testing.assert_array_equal(infer(kernels[1], models[1], batch), Mirror(models[1]).run(batch))
    kernels[1].close()


def test_a_kernel_starts_as_after_configuration(tiny_library: Path) -> None:
    """Also after another of the same library was used: every register is 0, nothing is loaded."""
    model = random_model(TINY, 0)
    for _ in range(2):
        kernel = SimulatedKernel(tiny_library)
        outputs = [r.name for r in INTERFACE.registers if r.is_output]
        assert [kernel.register(name) for name in outputs] == [0] * len(outputs)
        infer(kernel, model, frames(TINY, 1))
        assert kernel.register("errors") == 1 << 3
        load(kernel, model)
        kernel.close()


def test_watching_does_not_change_the_cycles(tiny: SimulatedKernel) -> None:
    model = random_model(TINY, 0)
    load(tiny, model)
    infer(tiny, model, frames(TINY, 7))
    unwatched = tiny.register("cycles")
    assert len(tiny.write_cycles("m_axis_out")) == 0
    tiny.watch()
    infer(tiny, model, frames(TINY, 7))
    assert tiny.register("cycles") == unwatched > 0
    assert len(tiny.write_cycles("m_axis_out")) == 7
    with pytest.raises(KeyError, match="'nowhere' must be a stream of the kernel"):
        tiny.write_cycles("nowhere")


def test_a_closed_kernel_is_unloaded_and_refuses(tiny_library: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    kernel = SimulatedKernel(tiny_library)
    assert tiny_library.name in maps.read_text()
    kernel.close()
    kernel.close()
    assert tiny_library.name not in maps.read_text()
    with pytest.raises(SimulationError, match="the kernel must be open, but has been closed"):
        kernel.call(COMMANDS["clear"], 0, NOTHING)
    with pytest.raises(SimulationError, match="the kernel must be open, but has been closed"):
        kernel.register("errors")


def test_a_call_without_its_packet_is_a_deadlock_after_which_it_is_configured_anew(
    tiny: SimulatedKernel,
) -> None:
    with pytest.raises(SimulationError, match=r"deadlock: .*stream s_axis_in is EMPTY"):
        tiny.call(COMMANDS["infer"], 1, NOTHING)
    with pytest.raises(SimulationError, match="must be configured anew after 'deadlock: "):
        tiny.call(COMMANDS["clear"], 0, NOTHING)


def test_a_packet_that_nobody_takes_is_left_over(tiny: SimulatedKernel) -> None:
    with pytest.raises(SimulationError, match="stream s_axis_in is left with 2 items"):
        tiny.call(COMMANDS["clear"], 0, np.zeros(2, np.uint64))


def test_only_output_registers_can_be_read(tiny: SimulatedKernel) -> None:
    for name in ("command", "CTRL", "nothing"):
        with pytest.raises(KeyError, match=r"register must be one of interface_version, .*, not"):
            tiny.register(name)


def test_a_library_is_built_once_for_each_folding(tmp_path: Path) -> None:
    compiler = Compiler.find()
    library = build_simulation(TINY, native_folding(TINY), compiler, tmp_path)
    before = library.stat().st_mtime_ns
    assert build_simulation(TINY, native_folding(TINY), compiler, tmp_path) == library
    assert library.stat().st_mtime_ns == before
    assert build_simulation(TINY, "small", compiler, tmp_path) != library
    with pytest.raises(PresetError, match="preset must be one of fast, small, not 'huge'"):
        build_simulation(TINY, "huge", compiler, tmp_path)


def test_a_tapped_library_answers_with_a_stage_of_other_sources_too(tmp_path: Path) -> None:
    model, folding, compiler = random_model(TINY, 1), native_folding(TINY), Compiler.find()
    root = tmp_path / "hls"
    shutil.copytree(kernel_root(), root, ignore=shutil.ignore_patterns("generated"))
    right = build_simulation(TINY, folding, compiler, tmp_path, "x_0")
    assert build_simulation(TINY, folding, compiler, tmp_path, "x_0", root) == right
    header = root / "include" / "emamba" / "in_proj.hpp"
    header.write_text(header.read_text() + "\n#define EMAMBA_OTHER\n")
    other = build_simulation(TINY, folding, compiler, tmp_path, "x_0", root)
    assert other != right
    batch = frames(TINY, 5)
    x = Mirror(model).trace(batch).stages["blocks.0.x"]
    for library in (right, other):
        kernel = SimulatedKernel(library)
        load(kernel, model)
        words = kernel.call(COMMANDS["infer"], len(batch), pack_frames(batch)).words
        assert x.shape == (5, 4, 4)  # a token is one word, without padding
        np.testing.assert_array_equal(words.view("<i2").reshape(x.shape), x)
        kernel.close()


def test_a_compiler_that_is_missing_or_fails_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Compiler.find()
    broken = Compiler(found.command, found.version, (*found.flags, "-include", "missing.hpp"))
    with pytest.raises(NativeError, match=r"must compile the kernels, but says: .*missing\.hpp"):
        build_simulation(TINY, native_folding(TINY), broken, tmp_path)
    gone = Compiler(str(tmp_path / "c++"), found.version, found.flags)
    with pytest.raises(NativeError, match=r"c\+\+ must be a C\+\+ compiler, but cannot be run"):
        build_simulation(TINY, native_folding(TINY), gone, tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(NativeError, match=r"needs a C\+\+17 compiler \(no-such-compiler\)"):
        Compiler.find()


def test_a_damaged_library_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "emamba-0.so"
    library.write_bytes(b"no library")
    with pytest.raises(NativeError, match=r"cannot be loaded: .*; remove it and try again"):
        SimulatedKernel(library)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(configs())
def test_the_images_length_follows_from_the_sizes(config: ModelConfig) -> None:
    assert image_words(config) == len(weights_image(random_model(config, 0)))
