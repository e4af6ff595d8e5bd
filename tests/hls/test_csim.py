"""C simulation equals the mirror: frames, stages, saturation masks, whatever the folding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import csim
from csim import FULL, Kernel, compile_kernel, load_kernel
from emamba.config import ModelConfig
from emamba.data import read_mars
from emamba.export import export_hls
from emamba.export.golden import extreme_frames, saturation_mask, stage_of_stream
from emamba.export.presets import PRESETS, preset
from emamba.fixed import IntegerModel, Mirror
from emamba.package import Package, load_package
from random_configs import configs
from random_models import random_model

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


def random_frames(config: ModelConfig, count: int, seed: int = 0) -> npt.NDArray[np.int8]:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (count, *config.input_shape)).astype(np.int8)


def extremes(config: ModelConfig) -> npt.NDArray[np.int8]:
    """The golden vectors' extreme frames, and one of which half is at its most."""
    half = np.zeros((1, *config.input_shape), np.int8)
    half.flat[: half.size // 2] = 127
    return np.concatenate([extreme_frames(config), half])


def assert_equal(kernel: Kernel, model: IntegerModel, batch: npt.NDArray[np.int8]) -> None:
    """Outputs, every streamed stage and the saturation mask."""
    trace = Mirror(model).trace(batch)
    outputs, mask = kernel.infer(batch, watched=True)
    for stream, stage in stage_of_stream(model.config).items():
        got = kernel.recorded(stream.name, stream.width)
        np.testing.assert_array_equal(got, trace.stages[stage].ravel(), err_msg=stream.name)
    np.testing.assert_array_equal(outputs, trace.stages["output"])
    assert mask == saturation_mask(trace)


@pytest.fixture(scope="module")
def mars() -> Package:
    return load_package(ROOT / "models" / "mars" / "1")


@pytest.fixture(scope="module", params=PRESETS)
def kernel(mars: Package, request: pytest.FixtureRequest) -> Kernel:
    """The shipped model with vendor types."""
    if csim.vendor_types() is None:
        pytest.skip("needs ap_int.h; pip install -r requirements-dev.txt")
    folding = preset(request.param, mars.model.config)
    return load_kernel(compile_kernel(mars.model, folding, vendor=True, optimise="-O2"), mars.model)


def test_vendor_types_equal_the_mirror_stage_by_stage(kernel: Kernel, mars: Package) -> None:
    assert_equal(kernel, mars.model, extremes(mars.model.config))
    assert_equal(kernel, mars.model, random_frames(mars.model.config, 32))


def test_mars_frames_with_vendor_types(kernel: Kernel, mars: Package) -> None:
    if not list(DATA.glob("**/mars_test.npz")):
        pytest.skip(f"needs the MARS data set in {DATA}")
    split = read_mars(DATA, "test")
    frames = mars.encode(split.features if FULL else split.features[::100])
    outputs, _ = kernel.infer(frames)
    np.testing.assert_array_equal(outputs, Mirror(mars.model).run(frames))


@pytest.mark.parametrize("name", PRESETS)
def test_random_frames_with_plain_integers(mars: Package, name: str) -> None:
    model = mars.model
    kernel = load_kernel(
        compile_kernel(model, preset(name, model.config), flags=csim.PLAIN[:1], optimise="-O2"),
        model,
    )
    for seed in range(50 if FULL else 1):
        batch = random_frames(model.config, 2_000, seed)
        outputs, _ = kernel.infer(batch)
        np.testing.assert_array_equal(outputs, Mirror(model).run(batch))


def test_a_new_model_needs_no_new_kernel(mars: Package) -> None:
    config = mars.model.config
    library = compile_kernel(mars.model, preset("fast", config))
    for seed in range(3):
        other = random_model(config, seed)
        assert_equal(load_kernel(library, other), other, random_frames(config, 4, seed))


@settings(
    max_examples=40 if FULL else 3,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(configs(), st.integers(0, 2**32 - 1))
def test_random_networks_of_random_shapes(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed)
    batch = np.concatenate([extreme_frames(config)[:4], random_frames(config, 2, seed)])
    for name in PRESETS:
        folding = preset(name, config)
        library = compile_kernel(model, folding, optimise="-O0")
        assert_equal(load_kernel(library, model), model, batch)


@pytest.mark.parametrize("name", PRESETS if FULL else PRESETS[:1])
def test_sanitizers_find_nothing(mars: Package, name: str, tmp_path: Path) -> None:
    """AddressSanitizer and UndefinedBehaviourSanitizer, narrow numbers asserted to fit."""
    export_hls(mars, name, tmp_path)
    root = csim.kernel_root()
    program = tmp_path / "testbench"
    csim.run_compiler(
        "-std=c++17", "-O1", "-Wno-unknown-pragmas", *csim.SANITIZED, "-DEMAMBA_SIMULATE",
        f"-I{tmp_path}", f"-I{root / 'include'}", f"-I{root / 'host'}",
        str(tmp_path / "top.cpp"), str(root / "test" / "testbench.cpp"), "-o", str(program),
    )  # fmt: skip
    done = csim.run_program(program, tmp_path)
    assert done == "16 frames, 30 sections: equal\n"
