from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emamba.config import ModelConfig
from emamba.export import kernel_files
from emamba.export.folding import native_folding
from emamba.fixed import IntegerModel
from overlay.simulation import KernelInSimulation
from overlay.tcl import TclRunner, tcl_interpreter
from random_models import random_model

ROOT = Path(__file__).resolve().parents[2]
SMALL_CONFIG = ModelConfig(
    input_height=4,
    input_width=4,
    input_channels=3,
    n_outputs=5,
    d_model=4,
    n_layer=1,
    d_state=2,
    d_conv=4,
    expand=2,
    dt_rank=1,
    patch=2,
    head_width=6,
)


@pytest.fixture(scope="session")
def small_model() -> IntegerModel:
    return random_model(SMALL_CONFIG, 5)


@pytest.fixture(scope="session")
def kernel_library(small_model: IntegerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ip.cpp and top.cpp of a small model, compiled with plain integers that check themselves."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "emamba").mkdir()
    for name, text in kernel_files(small_model, native_folding(SMALL_CONFIG)).items():
        (folder / name).write_text(text)
    library = folder / "kernel.so"
    # Without the last, copies of the library would share their statics.
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-gnu-unique"]
    flags += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-label"]
    flags += [f"-DEMAMBA_{name}" for name in ("SIMULATE", "PLAIN_INTS", "CHECK")]
    flags += [f"-I{path}" for path in (folder, ROOT / "hls" / "include", ROOT / "hls" / "host")]
    sources = [folder / "ip.cpp", folder / "top.cpp", ROOT / "tests" / "overlay" / "ip_bench.cpp"]
    subprocess.run([compiler, *flags, *sources, "-o", library], check=True, timeout=300)
    return library


@pytest.fixture
def kernel(kernel_library: Path, tmp_path: Path) -> KernelInSimulation:
    """A kernel as after configuration: statics and registers are zero."""
    copy = tmp_path / "kernel.so"
    shutil.copy(kernel_library, copy)
    return KernelInSimulation(copy)


@pytest.fixture
def run_tcl(tmp_path: Path) -> TclRunner:
    """Runs a script to its end against `recorder.tcl` and returns the calls it made."""
    interpreter = tcl_interpreter()
    if interpreter is None:
        pytest.skip("needs tclsh (apt-get install tcl) or a Python with tkinter")
    return TclRunner(interpreter, tmp_path)
