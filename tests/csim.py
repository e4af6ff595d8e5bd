"""Compiles exported kernels for C simulation and runs packets through them."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.export import kernel_sources
from emamba.export.folding import Folding
from emamba.export.image import image_crc, weights_image
from emamba.export.sources import kernel_root
from emamba.fixed import IntegerModel

# `make verify-kernels` sets it: every case instead of a sample.
FULL = os.environ.get("EMAMBA_VERIFY") == "full"
PLAIN = ("-DEMAMBA_PLAIN_INTS", "-DEMAMBA_CHECK")
SANITIZED = (*PLAIN, "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
# Several kernels live in one process: their static parameters must not be merged by name.
# GCC 12 sees subscripts "[0, 0]" outside of arrays of one element.
_FLAGS = (
    *("-std=c++17", "-Wall", "-Wextra", "-Werror"),
    *("-Wno-unknown-pragmas", "-Wno-unused-label", "-Wno-array-bounds"),
    *("-fno-gnu-unique", "-DEMAMBA_SIMULATE"),
)
# The vendor's headers are not free of these.
_VENDOR_FLAGS = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")


def compiler() -> str | None:
    """A C++ compiler's path."""
    return shutil.which(os.environ.get("CXX") or "g++")


def vendor_types() -> Path | None:
    """The folder of `ap_int.h` in the installed hls4ml, which is not imported."""
    found = importlib.util.find_spec("hls4ml")
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "templates" / "vivado" / "ap_types"


def compile_kernel(
    model: IntegerModel,
    folding: Folding,
    *,
    vendor: bool = False,
    flags: Sequence[str] = PLAIN,
    optimise: str = "-O1",
    root: Path | None = None,
) -> Path:
    """A C simulation as a shared library; equal requests share one in this process's folder."""
    root = root or kernel_root()
    files = kernel_sources(model.config, folding)
    if vendor:
        flags = (*_VENDOR_FLAGS, f"-isystem{_vendor_headers()}")
    key = hashlib.sha256(repr((sorted(files.items()), flags, optimise, str(root))).encode())
    folder = _workspace() / key.hexdigest()[:16]
    library = folder / "csim.so"
    if not library.exists():
        (folder / "emamba").mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        run_compiler(
            *_FLAGS, *flags, optimise, "-fPIC", "-shared", f"-I{folder}", f"-I{root / 'include'}",
            f"-I{root / 'host'}", str(folder / "top.cpp"), str(root / "host" / "csim.cpp"),
            "-o", str(library),
        )  # fmt: skip
    return library


def run_compiler(*arguments: str, command: str | None = None) -> None:
    """Run a C++ compiler, the host's if none is named; raises `RuntimeError` with what it says."""
    path = command or compiler()
    assert path is not None
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)


def run_program(program: Path, *arguments: object, timeout_s: float | None = None) -> str:
    """What a program prints; raises `RuntimeError` with stderr unless it exits 0."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def _workspace() -> Path:
    return Path(_WORKSPACE.name)


_WORKSPACE = tempfile.TemporaryDirectory(prefix="emamba-csim-")


def _vendor_headers() -> Path:
    """The Apache-2.0 `ap_*` headers alone: beside them lies an hls_stream.h that is not free."""
    source = vendor_types()
    assert source is not None
    target = _workspace() / "ap_types"
    if not target.exists():
        shutil.copytree(source, target)
        (target / "hls_stream.h").unlink()
    return target


class Kernel:
    """One compiled kernel with one model's parameters loaded."""

    def __init__(self, library: Path, config: ModelConfig) -> None:
        self._config = config
        self._library = ctypes.CDLL(str(library))
        self._library.emamba_csim_run.restype = ctypes.c_long
        self._library.emamba_csim_run.argtypes = [ctypes.c_void_p, ctypes.c_long] * 2 + [
            ctypes.c_int
        ] * 2
        self._library.emamba_csim_error.restype = ctypes.c_char_p
        self._library.emamba_csim_stream.restype = ctypes.c_char_p
        for name in ("depth", "peak", "recorded", "cycles"):
            getattr(self._library, f"emamba_csim_{name}").restype = ctypes.c_long

    def call(
        self,
        header: int,
        payload: npt.NDArray[np.uint64],
        room: int,
        *,
        bounded: bool = True,
        watched: bool = False,
    ) -> npt.NDArray[np.uint64]:
        """The answer to one packet; raises `RuntimeError` with the simulation's message."""
        packet = np.concatenate([np.array([header], np.uint64), payload])
        answer = np.zeros(room, np.uint64)
        words = self._library.emamba_csim_run(
            packet.ctypes.data, len(packet), answer.ctypes.data, room, bounded, watched
        )
        if words < 0:
            raise RuntimeError(self._library.emamba_csim_error().decode())
        return answer[:words]

    def load(self, model: IntegerModel) -> None:
        """Load a model's image; its CRC must come back."""
        image = weights_image(model)
        (status,) = self.call(len(image) << 32 | 1, image, 1)
        assert int(status) >> 32 == image_crc(image)

    def infer(
        self, batch: npt.NDArray[np.int8], *, bounded: bool = True, watched: bool = False
    ) -> tuple[npt.NDArray[np.int16], int]:
        """Outputs (n, n_outputs) and the mask of saturated formats."""
        answer = self.call(
            len(batch) << 32,
            pack_frames(batch),
            len(batch) * self._output_words + 1,
            bounded=bounded,
            watched=watched,
        )
        outputs = answer[:-1].astype("<u8").view("<i2").reshape(len(batch), -1)
        return outputs[:, : self._config.n_outputs], int(answer[-1]) & 0xFFFFFFFF

    def streams(self) -> list[str]:
        """Names of all streams."""
        names = []
        while (name := self._library.emamba_csim_stream(len(names))) is not None:
            names.append(name.decode())
        return names

    def depth(self, stream: str) -> int:
        """A stream's designed depth."""
        return int(self._library.emamba_csim_depth(stream.encode()))

    def peak(self, stream: str) -> int:
        """Most items that waited in a watched stream."""
        return int(self._library.emamba_csim_peak(stream.encode()))

    def recorded(self, stream: str, width: int) -> npt.NDArray[np.int32]:
        """Elements that went through a watched stream."""
        name = stream.encode()
        room = self._library.emamba_csim_recorded(name, width, None, 0)
        elements = np.zeros(room, np.int32)
        self._library.emamba_csim_recorded(
            name, width, elements.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(room)
        )
        return elements

    @property
    def _output_words(self) -> int:
        return -(-self._config.n_outputs // 4)


def pack_frames(batch: npt.NDArray[np.int8]) -> npt.NDArray[np.uint64]:
    """Frames as the words of a packet: eight int8 each, every frame padded to whole words."""
    flat = batch.reshape(len(batch), -1)
    padded = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 8)))
    return np.ascontiguousarray(padded).view("<u8").ravel().astype(np.uint64)


def load_kernel(library: Path, model: IntegerModel) -> Kernel:
    """A kernel with the model's parameters."""
    kernel = Kernel(library, model.config)
    kernel.load(model)
    return kernel
