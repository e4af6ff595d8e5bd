"""Runs Tcl scripts against `recorder.tcl`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class TclFailed(Exception):
    """What a script stopped with."""


class TclRunner:
    """An interpreter, and a folder to work in."""

    def __init__(self, interpreter: list[str], folder: Path) -> None:
        self._interpreter = interpreter
        self._folder = folder

    def __call__(
        self,
        script: Path,
        tool: str,
        env: dict[str, str],
        slack_ns: str = "0.1",
        progress: str = "100%",
    ) -> list[list[str]]:
        """Run a script to its end; returns the calls it made, or raises `TclFailed`."""
        known = json.loads((HERE / "commands.json").read_text())
        driver = self._folder / "driver.tcl"
        driver.write_text(
            f"set commands {{{_dict(known[tool])}}}\nset pins {{{_dict(known['pins'])}}}\n"
            f"set slack_ns {slack_ns}\nset progress {progress}\nsource {HERE / 'recorder.tcl'}\n"
            f'if {{[catch {{source {script}}} message]}} {{puts "ERROR\\t$message"}}\n'
            "flush stdout\n"
        )
        done = subprocess.run(
            [*self._interpreter, str(driver)],
            env={"PATH": os.environ["PATH"], **env},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        lines = [line.split("\t") for line in done.stdout.splitlines()]
        failed = [line[1] for line in lines if line[0] == "ERROR"]
        if failed:
            raise TclFailed(failed[0])
        return [line[1:] for line in lines if line[0] == "CALL"]


def tcl_interpreter() -> list[str] | None:
    """The command that runs a Tcl file: tclsh, or the interpreter that comes with Python."""
    tclsh = shutil.which("tclsh")
    if tclsh is not None:
        return [tclsh]
    if importlib.util.find_spec("_tkinter") is not None:
        return [sys.executable, "-c", "import sys, tkinter; tkinter.Tcl().evalfile(sys.argv[1])"]
    return None


def _dict(value: Any) -> str:
    """JSON as a Tcl dict; no key or value has spaces."""
    if isinstance(value, dict):
        return " ".join(f"{key} {{{_dict(item)}}}" for key, item in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(int(value))
