"""A radar's two serial ports: commands go to one, frames come from the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import serial
from serial.tools import list_ports

from emamba_client.errors import RadarError

__all__ = ["CLI_BAUD", "DATA_BAUD", "Port", "open_port", "read_configuration", "send_command"]

CLI_BAUD = 115_200
DATA_BAUD = 921_600
_READ_TIMEOUT_S = 0.05
_ANSWER_S = 2.0
# What the demo's command line says of a command that it has not carried out.
_REFUSALS = ("error", "not recognized", "invalid")
_LAST = "sensorStart"


class Port(Protocol):
    """What is used of a `serial.Serial`."""

    @property
    def in_waiting(self) -> int:
        """Bytes that have come."""
        ...

    def read(self, size: int = 1) -> bytes:
        """Up to `size` bytes, fewer after the port's time-out."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Send bytes."""
        ...

    def close(self) -> None:
        """Give the port back."""
        ...


def open_port(name: str, baud: int) -> Port:
    """A serial port, 8N1; raises `RadarError`, which lists those there are."""
    try:
        port: Port = serial.Serial(
            name, baud, timeout=_READ_TIMEOUT_S, write_timeout=_ANSWER_S, exclusive=True
        )
    except (OSError, ValueError) as error:
        there = ", ".join(sorted(port.device for port in list_ports.comports())) or "none"
        raise RadarError(
            f"{name} must be a radar's serial port, but cannot be opened ({_reason(error)}); "
            f"the ports of this machine: {there}"
        ) from error
    return port


def _reason(error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def read_configuration(path: Path) -> list[str]:
    """The commands of a .cfg file, without comments; raises `RadarError`.

    Points must come with side info, which has their intensity: the first value of guiMonitor is 1.
    """
    try:
        text = path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise RadarError(f"{path} must be a radar's configuration, but {reason}") from error
    lines = (line.strip() for line in text.splitlines())
    commands = [line for line in lines if line and not line.startswith("%")]
    if not commands or commands[-1] != _LAST:
        raise RadarError(f"{path} must end with {_LAST}, or no frame will come")
    monitors = [line.split() for line in commands if line.startswith("guiMonitor")]
    # The demos with sub-frames have the sub-frame as the first of seven values.
    detected = [words[2] if len(words) == 8 else words[1] for words in monitors if len(words) > 1]
    if not detected or any(value != "1" for value in detected):
        raise RadarError(
            f"{path} must have guiMonitor with 1 for detected objects, points with side info, but "
            f"has {', '.join(detected) or 'no guiMonitor'}"
        )
    return commands


def send_command(port: Port, command: str, clock: Callable[[], float] = time.monotonic) -> None:
    """Send one command and wait for Done; raises `RadarError` with the radar's answer."""
    port.read(port.in_waiting)  # what came before is no answer to this command
    port.write(f"{command}\n".encode("ascii"))
    answer = ""
    until_s = clock() + _ANSWER_S
    while clock() < until_s:
        answer += port.read(max(1, port.in_waiting)).decode("ascii", "replace")
        said = answer.lower()
        if any(word in said for word in _REFUSALS):
            break
        if "done" in said or "ignored" in said:
            return
    came = " ".join(answer.split()) or "nothing"
    raise RadarError(f"the radar must answer Done to {command!r}, but answered {came[:200]!r}")
