"""The native engine: the mirror's bits, on this processor and on an emulated ARM one."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import csim
from csim import FULL
from emamba import native
from emamba.config import ModelConfig
from emamba.data import read_mars
from emamba.engines import EngineError, NativeEngine, open_engine
from emamba.export.folding import native_folding
from emamba.export.header import config_header
from emamba.export.image import ImageError, weights_image
from emamba.export.timing import pipeline_depths
from emamba.fixed import IntegerModel, Mirror
from emamba.native import Compiler, NativeError, NativeKernel, build_library
from emamba.package import Package, load_package
from random_configs import configs
from random_models import MARS_CONFIG, random_model

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
MODEL = random_model(MARS_CONFIG, 0)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMAMBA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def mars() -> Package:
    return load_package(ROOT / "models" / "mars" / "1")


def frames(config: ModelConfig, count: int, seed: int = 0) -> np.ndarray:
    """Random frames, the first three of them extreme."""
    rng = np.random.default_rng(seed)
    batch = rng.integers(-127, 128, (count, *config.input_shape)).astype(np.int8)
    batch[:1], batch[1:2], batch[2:3] = -127, 127, 0
    return batch


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_it_gives_the_mirrors_bits(mars: Package, threads: int, count: int) -> None:
    engine = NativeEngine(mars.model, threads)
    batch = frames(mars.model.config, count, seed=count)
    for _ in range(3):
        np.testing.assert_array_equal(engine.run(batch), Mirror(mars.model).run(batch))
    engine.close()


def test_many_frames(mars: Package) -> None:
    engine = NativeEngine(mars.model)
    for seed in range(50 if FULL else 2):
        batch = frames(mars.model.config, 2_000, seed)
        np.testing.assert_array_equal(engine.run(batch), Mirror(mars.model).run(batch))
    engine.close()


def test_the_whole_mars_test_set(mars: Package) -> None:
    if not list(DATA.glob("**/mars_test.npz")):
        pytest.skip(f"needs the MARS data set in {DATA}")
    batch = mars.encode(read_mars(DATA, "test").features)
    engine = NativeEngine(mars.model)
    np.testing.assert_array_equal(engine.run(batch), Mirror(mars.model).run(batch))
    engine.close()


@settings(
    max_examples=40 if FULL else 3,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(configs(), st.integers(0, 2**32 - 1))
def test_random_networks_of_random_shapes(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed)
    engine = NativeEngine(model)
    batch = frames(config, 9, seed)
    np.testing.assert_array_equal(engine.run(batch), Mirror(model).run(batch))
    engine.close()


def test_calls_from_many_threads_do_not_mix() -> None:
    engine = NativeEngine(MODEL, threads=2)
    wrong: list[int] = []

    def work(seed: int) -> None:
        batch = frames(MARS_CONFIG, 16 + seed, seed)
        wanted = Mirror(MODEL).run(batch)
        wrong.extend(seed for _ in range(20) if not np.array_equal(engine.run(batch), wanted))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    engine.close()
    assert wrong == []


def test_the_interpreter_runs_on_while_it_computes() -> None:
    engine = NativeEngine(MODEL, threads=1)
    batch = frames(MARS_CONFIG, 20_000)
    started = threading.Event()

    def work() -> None:
        started.set()
        engine.run(batch)

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    turns = 0
    while worker.is_alive():
        turns += 1
    engine.close()
    # With the interpreter held there would be a few turns before and after the call.
    assert turns > 1_000


def test_input_is_checked_as_by_the_mirror() -> None:
    engine = NativeEngine(MODEL, threads=1)
    with pytest.raises(ValueError, match=r"batch must be int8 \[n, 8, 8, 5\], not int16"):
        engine.run(frames(MARS_CONFIG, 1).astype(np.int16))
    with pytest.raises(ValueError, match=r"batch must lie in -127..127, but holds -128"):
        engine.run(np.full((1, 8, 8, 5), -128, np.int8))
    strided = frames(MARS_CONFIG, 8)[::2]
    np.testing.assert_array_equal(engine.run(strided), Mirror(MODEL).run(strided))
    engine.close()
    with pytest.raises(NativeError, match="the engine must be open, but has been closed"):
        engine.run(frames(MARS_CONFIG, 1))


def test_a_library_is_built_once(tmp_path: Path) -> None:
    compiler = Compiler.find()
    library = build_library(MARS_CONFIG, compiler, tmp_path)
    before = library.stat().st_mtime_ns
    assert build_library(MARS_CONFIG, compiler, tmp_path) == library
    assert library.stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == [library.name]


def test_without_a_compiler_auto_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    why = "native needs a C++17 compiler (no-such-compiler); install g++, or point CXX at one"
    with pytest.raises(EngineError) as refused:
        open_engine("native", MODEL)
    assert str(refused.value) == why
    assert open_engine("auto", MODEL).info.name == "mirror"
    assert caplog.messages == [f"engine native does not open, trying the next: {why}"]


def test_a_model_that_kernels_cannot_hold_falls_to_the_mirror(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(model: IntegerModel) -> None:
        raise ImageError("silu must have at most 32 rows in use, not 40")

    monkeypatch.setattr(native, "weights_image", refuse)
    assert open_engine("auto", MODEL).info.name == "mirror"
    assert caplog.messages == [
        "engine native does not open, trying the next: native kernels cannot hold this model: "
        "silu must have at most 32 rows in use, not 40"
    ]


def test_a_compiler_that_fails_is_one_line(tmp_path: Path) -> None:
    found = Compiler.find()
    broken = Compiler(found.command, found.version, (*found.flags, "-include", "missing.hpp"))
    with pytest.raises(NativeError, match=r"must compile the kernels, but says: .*missing\.hpp"):
        build_library(MARS_CONFIG, broken, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(NativeError, match=r"must be writable: .*; set EMAMBA_CACHE"):
        build_library(MARS_CONFIG, Compiler.find(), occupied)


def test_a_damaged_library_is_refused(tmp_path: Path) -> None:
    library = tmp_path / "emamba-0.so"
    library.write_bytes(b"no library")
    with pytest.raises(NativeError, match=r"cannot be loaded: .*; remove it and try again"):
        NativeKernel(MODEL, library, 1)


def test_kernels_of_other_sizes_are_refused(tmp_path: Path) -> None:
    fewer = ModelConfig(**(MARS_CONFIG.to_json() | {"n_layer": 1}))
    library = build_library(fewer, Compiler.find(), tmp_path)
    with pytest.raises(NativeError, match="the weights image is too long for this network"):
        NativeKernel(MODEL, library, 1)


def test_kernels_that_differ_from_the_mirror_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another model's image stands in for a miscompiled kernel."""
    library = build_library(MARS_CONFIG, Compiler.find(), tmp_path)
    image = weights_image(random_model(MARS_CONFIG, 1))
    monkeypatch.setattr(native, "weights_image", lambda model: image)
    with pytest.raises(NativeError, match="must give the mirror's integers, but differ"):
        NativeKernel(MODEL, library, 1)


def test_an_emulated_arm_processor_gives_the_same_bits(mars: Package, tmp_path: Path) -> None:
    cross = shutil.which("aarch64-linux-gnu-g++")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if cross is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user-static")
    model = mars.model
    folding = native_folding(model.config)
    (tmp_path / "emamba").mkdir()
    header = config_header(model.config, folding, pipeline_depths(model.config, folding))
    (tmp_path / "emamba" / "config.hpp").write_text(header)
    root = csim.kernel_root()
    program = tmp_path / "native_main"
    csim.run_compiler(
        "-std=c++17", "-O3", "-mcpu=cortex-a53", "-static", "-pthread", "-DEMAMBA_PLAIN_INTS",
        "-Wno-unknown-pragmas", f"-I{tmp_path}", f"-I{root / 'include'}", f"-I{root / 'native'}",
        str(root / "native" / "native.cpp"), str(root / "test" / "native_main.cpp"),
        "-o", str(program), command=cross,
    )  # fmt: skip
    batch = frames(model.config, 2_000 if FULL else 200)
    (tmp_path / "weights").write_bytes(weights_image(model).astype("<u8").tobytes())
    (tmp_path / "frames").write_bytes(batch.tobytes())
    names = [tmp_path / name for name in ("weights", "frames", "outputs")]
    csim.run_program(Path(emulator), "-cpu", "cortex-a53", program, *names, 2)
    outputs = np.fromfile(tmp_path / "outputs", "<i2").reshape(len(batch), -1)
    np.testing.assert_array_equal(outputs, Mirror(model).run(batch))
