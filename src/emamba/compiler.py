"""A C++ compiler of this machine, and a cache of the libraries that it makes of the kernels.

A library lies in the cache under a name that hashes everything it depends on: sources, generated
files, flags, compiler and processor.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emamba.export.sources import kernel_root, source_hash

__all__ = ["Compiler", "NativeError", "Recipe", "build", "cache_folder"]

_BUILD_TIMEOUT_S = 600
_FLAGS = (
    "-std=c++17",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    "-DEMAMBA_PLAIN_INTS",
    "-Wno-unknown-pragmas",
)


class NativeError(Exception):
    """The kernels cannot be compiled or loaded here; the message says what to do."""


@dataclass(frozen=True)
class Compiler:
    """A C++17 compiler and the flags that fit the processor it compiles for."""

    command: str
    version: str
    flags: tuple[str, ...]

    @classmethod
    def find(cls) -> Compiler:
        """`$CXX`, or the first of c++, g++ and clang++; raises `NativeError` without one."""
        names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
        for name in names:
            command = shutil.which(name)
            if command is not None:
                return cls(command, _version(command), _FLAGS + _processor_flags())
        raise NativeError(
            f"needs a C++17 compiler ({' or '.join(names)}); install g++, or point CXX at one"
        )


@dataclass(frozen=True)
class Recipe:
    """What a library is made of.

    `generated` are texts by path; those that end in .cpp are compiled. `folders` of `root`, the
    kernels' sources, are searched for headers, `sources` in it are compiled too. `flags` come after
    the compiler's.
    """

    generated: Mapping[str, str]
    folders: tuple[str, ...]
    sources: tuple[str, ...]
    flags: tuple[str, ...]
    root: Path = field(default_factory=kernel_root)


def build(recipe: Recipe, compiler: Compiler, folder: Path) -> Path:
    """The library of `recipe`, compiled unless `folder` holds it already.

    Written beside and renamed, so that a reader never sees half of it. Raises `NativeError`.
    """
    library = folder / f"emamba-{_key(recipe, compiler)[:32]}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                os.replace(_compile(recipe, compiler, Path(scratch)), library)
        except OSError as error:
            raise NativeError(
                f"the cache {folder} must be writable: {error.strerror}; "
                "set EMAMBA_CACHE to a folder that is"
            ) from error
    return library


def cache_folder() -> Path:
    """`$EMAMBA_CACHE`, or `emamba` in the user's cache folder."""
    if chosen := os.environ.get("EMAMBA_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "emamba"


def _key(recipe: Recipe, compiler: Compiler) -> str:
    parts = (
        source_hash(*recipe.folders, root=recipe.root),
        repr(sorted(recipe.generated.items())),
        repr((recipe.sources, recipe.flags)),
        compiler.version,
        *compiler.flags,
        _processor(),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _compile(recipe: Recipe, compiler: Compiler, scratch: Path) -> Path:
    for name, text in recipe.generated.items():
        path = scratch / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root = recipe.root
    generated = [scratch / name for name in recipe.generated if name.endswith(".cpp")]
    out = scratch / "kernels.so"
    command = [
        compiler.command,
        *compiler.flags,
        *recipe.flags,
        f"-I{scratch}",
        *(f"-I{root / folder}" for folder in recipe.folders),
        *map(str, generated),
        *(str(root / source) for source in recipe.sources),
        "-o",
        str(out),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise NativeError(f"compiling must take at most {_BUILD_TIMEOUT_S} s") from error
    except OSError as error:
        raise NativeError(
            f"{compiler.command} must be a C++ compiler, but cannot be run: {error.strerror}"
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
        raise NativeError(f"{compiler.command} must compile the kernels, but says: {lines[0]}")
    return out


def _version(command: str) -> str:
    try:
        done = subprocess.run(
            [command, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NativeError(f"{command} must be a C++ compiler, but --version fails") from error
    return done.stdout.splitlines()[0] if done.stdout else command


def _processor_flags() -> tuple[str, ...]:
    if platform.machine() in ("x86_64", "AMD64"):
        # Wider vectors leave remainders of these layers' rows, and gain nothing.
        return ("-march=native", "-mprefer-vector-width=256")
    return ("-mcpu=native",)


def _processor() -> str:
    """What `native` means here: libraries in a shared home must not meet another processor."""
    names = ("flags", "Features", "CPU part")
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = [line for line in lines if line.split(":")[0].strip() in names]
    except OSError:
        flags = [platform.processor()]
    return platform.machine() + "".join(sorted(set(flags)))
