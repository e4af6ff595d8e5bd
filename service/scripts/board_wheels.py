"""Collects what a board installs without a network: our wheels and all they need, for aarch64.

    python service/scripts/board_wheels.py 3.10 build/wheels

leaves them in `build/wheels/cp310`. Needs a package index, uv and hatchling. pynq itself is not
among them: it has no wheels, and images for boards bring it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["build_own", "collect", "resolve"]

ROOT = Path(__file__).parents[2]
# pynq wants numpy<2; it and the service must share one numpy.
_CONSTRAINTS = "numpy<2\n"
# Ubuntu 22.04, the older of the images' systems, has glibc 2.35.
_GLIBC_MINORS = range(17, 36)
_PLATFORMS = ["manylinux2014_aarch64", *(f"manylinux_2_{m}_aarch64" for m in _GLIBC_MINORS)]


def collect(python: str, out: Path) -> Path:
    """The folder of wheels for Python `python` ("3.10") under `out`, made anew.

    Raises `subprocess.CalledProcessError` where something cannot be built, resolved or fetched.
    """
    folder = out.resolve() / f"cp{python.replace('.', '')}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    own = build_own(folder)
    lock = folder / "lock.txt"
    lock.write_text(resolve(python, own))
    _download(python, lock, folder)
    return folder


def build_own(folder: Path) -> list[Path]:
    """Our wheels, built into `folder`."""
    for project in (ROOT, ROOT / "service"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=project, check=True, capture_output=True)
    return sorted(folder.glob("emamba*.whl"))


def resolve(python: str, own: list[Path]) -> str:
    """Pinned and hashed requirements of the wheels `own` on an aarch64 board.

    By uv: pip would evaluate the markers of the Python that it runs on.
    """
    wanted = [f"{wheel.name.split('-')[0]} @ {wheel.resolve().as_uri()}" for wheel in own]
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config"]
    command += ["--python-version", python]
    command += ["--python-platform", f"aarch64-manylinux_2_{_GLIBC_MINORS[-1]}"]
    command += ["--only-binary", ":all:", "--generate-hashes", "--no-header", "--no-annotate"]
    command += ["--no-emit-package", "emamba", "--no-emit-package", "emamba-service", "-"]
    done = subprocess.run(
        command,
        input="\n".join([*wanted, _CONSTRAINTS]),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    return done.stdout


def _download(python: str, lock: Path, folder: Path) -> None:
    abi = f"cp{python.replace('.', '')}"
    options = ["--no-deps", "--require-hashes", "--only-binary", ":all:"]
    options += ["--implementation", "cp", "--python-version", python]
    options += [item for name in (abi, "abi3", "none") for item in ("--abi", name)]
    options += [item for name in _PLATFORMS for item in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    command += [*options, "--dest", str(folder), "--requirement", str(lock)]
    subprocess.run(command, check=True)


def main() -> None:
    """Collect, and say how much it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("python", help="the board's Python: 3.10 for PYNQ 3 images, 3.12 for 4")
    parser.add_argument("out", type=Path, help="folder for the folder of wheels")
    given = parser.parse_args()
    try:
        folder = collect(given.python, given.out)
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd[:5]))
        said = (error.stderr or b"its message is above").decode()
        sys.exit(f"board_wheels: {command} ... must succeed, but failed: {said}")
    wheels = sorted(folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{folder}: {len(wheels)} wheels, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
