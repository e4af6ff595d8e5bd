from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emamba.compiler import Compiler, NativeError
from emamba.config import ModelConfig
from emamba.export.folding import native_folding
from emamba.fixed import IntegerModel
from emamba.simulated import SimulatedKernel, build_simulation
from overlay.tcl import TclRunner, tcl_interpreter
from random_models import random_model

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
def kernel_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel of `small_model`, whose integers check themselves, compiled without a warning."""
    try:
        found = Compiler.find()
    except NativeError as error:
        pytest.skip(str(error))
    flags = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-label", "-DEMAMBA_CHECK")
    compiler = Compiler(found.command, found.version, (*found.flags, *flags))
    folder = tmp_path_factory.mktemp("kernel")
    return build_simulation(SMALL_CONFIG, native_folding(SMALL_CONFIG), compiler, folder)


@pytest.fixture
def kernel(kernel_library: Path) -> Iterator[SimulatedKernel]:
    """A kernel as after configuration: statics and registers are zero."""
    kernel = SimulatedKernel(kernel_library)
    yield kernel
    kernel.close()


@pytest.fixture
def run_tcl(tmp_path: Path) -> TclRunner:
    """Runs a script to its end against `recorder.tcl` and returns the calls it made."""
    interpreter = tcl_interpreter()
    if interpreter is None:
        pytest.skip("needs tclsh (apt-get install tcl) or a Python with tkinter")
    return TclRunner(interpreter, tmp_path)
