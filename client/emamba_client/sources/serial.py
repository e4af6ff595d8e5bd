"""A TI mmWave radar at two serial ports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import serial

from emamba_client.errors import RadarError
from emamba_client.radar.ports import (
    CLI_BAUD,
    DATA_BAUD,
    Port,
    open_port,
    read_configuration,
    send_command,
)
from emamba_client.sources import SourceFrame
from emamba_client.sources.feed import RadarBytes

__all__ = ["SerialSource"]


class SerialSource:
    """Reads frames from the data port `data_port`.

    With `configuration`, a .cfg file, the radar is configured and started through `cli_port` once
    frames are asked for, and stopped at the end; without, it must be running. Raises `RadarError`,
    here and while frames come.
    """

    name: ClassVar[str] = "serial"
    is_live: ClassVar[bool] = True

    def __init__(
        self,
        data_port: str,
        cli_port: str | None = None,
        configuration: Path | None = None,
        clock: Callable[[], float] = time.perf_counter,
        open_port: Callable[[str, int], Port] = open_port,
    ) -> None:
        if (cli_port is None) != (configuration is None):
            raise RadarError("--cli-port and --config must be given together, or neither")
        self._commands = read_configuration(configuration) if configuration else []
        self._data_name = data_port
        self._clock = clock
        self._closed = False
        self._radar = RadarBytes()
        self._data = open_port(data_port, DATA_BAUD)
        self._cli = None if cli_port is None else open_port(cli_port, CLI_BAUD)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Frames as they come, as `Source` says."""
        try:
            if self._cli is not None:
                for command in self._commands:
                    if self._closed:
                        return
                    send_command(self._cli, command)
            while not self._closed:
                data = self._data.read(max(1, self._data.in_waiting))
                yield from self._radar.frames(data, self._clock())
        except (serial.SerialException, OSError) as error:
            raise RadarError(
                f"the radar at {self._data_name} must go on sending, but was lost ({error}); "
                "is it still plugged in?"
            ) from error
        finally:
            self._end()

    def close(self) -> None:
        """End the reading; the radar is stopped once it has ended."""
        self._closed = True

    def counts(self) -> dict[str, int]:
        """What was no frame, and frames that were lost."""
        return self._radar.counts()

    def _end(self) -> None:
        # Of a radar that has gone, nothing can be asked any more.
        with contextlib.suppress(serial.SerialException, OSError, RadarError):
            if self._cli is not None:
                cli, self._cli = self._cli, None
                with contextlib.closing(cli):
                    send_command(cli, "sensorStop")
        self._data.close()
