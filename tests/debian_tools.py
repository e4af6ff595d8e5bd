"""Programs of Debian's, whether they are installed or not."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UNPACKED = ROOT / ".venv" / "debian"
PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "haproxy": "haproxy",
    "chromium": "chromium",
}


def debian_tool(name: str) -> Path:
    """The program `name`: this machine's, or unpacked below .venv without installing anything.

    Skips the test, with the reason, where neither is possible.
    """
    if (found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")) is not None:
        return Path(found)
    wrapper = UNPACKED / "bin" / name
    UNPACKED.mkdir(parents=True, exist_ok=True)
    with (UNPACKED / "lock").open("w") as lock:
        # Tests that run side by side want the same programs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wrapper.exists():
            try:
                _unpack(PACKAGES[name])
                _wrap(name, wrapper)
            except (OSError, subprocess.SubprocessError, StopIteration) as error:
                said = getattr(error, "stderr", None) or error
                pytest.skip(f"{name} is not installed, and Debian's cannot be had: {said}")
    return wrapper


def _unpack(package: str) -> None:
    """Unpack a package and what it needs and this machine lacks: no root, nothing installed.

    apt works on lists and a cache in a folder of ours, and only reads what is installed.
    """
    state = UNPACKED / "apt"
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    options = [
        *("-o", f"Dir::State={state}", "-o", f"Dir::Cache={state / 'cache'}"),
        *("-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "Debug::NoLocking=true"),
        *("-o", "APT::Sandbox::User=", "-o", "Binary::apt-get::APT::Keep-Downloaded-Packages=true"),
        "-qq",
    ]
    fetch = ["--yes", "--no-install-recommends", "--reinstall", "--download-only"]
    _run(["apt-get", *options, "update"])
    _run(["apt-get", *options, "install", *fetch, package])
    for archive in (state / "cache" / "archives").glob("*.deb"):
        _run(["dpkg-deb", "-x", str(archive), str(UNPACKED / "root")])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)


def _wrap(name: str, wrapper: Path) -> None:
    """A script that runs an unpacked program with the libraries unpacked beside it."""
    # Chromium's own, in /usr/bin, is a script for an installed one.
    folders = ("usr/lib/chromium", "usr/bin", "usr/sbin")
    places = [UNPACKED / "root" / folder / name for folder in folders]
    program = next(path for path in places if path.is_file())
    libraries = {str(path.parent) for path in (UNPACKED / "root").glob("usr/lib/**/*.so*")}
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{":".join(sorted(libraries))}" exec "{program}" "$@"\n'
    )
    wrapper.chmod(0o755)
