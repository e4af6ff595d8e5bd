"""The engine process as its parent sees it: start, control socket, end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import orjson

from emamba_service.board.board import Report
from emamba_service.settings import Settings

__all__ = ["EngineProcess"]

# From the last descriptor's closing to the process's end, and from SIGKILL.
_LEAVE_LIMIT_S = 1.0
_KILL_LIMIT_S = 5.0
_MESSAGE_BYTES = 64 * 1024


class EngineProcess:
    """A running engine process. `report` is told of its boards' faults. Of one event loop.

    Raises `OSError` where it cannot be started.
    """

    def __init__(self, settings: Settings, report: Report) -> None:
        self._report = report
        self._why: str | None = None
        self._hangs = False
        self._loop = asyncio.get_running_loop()
        # Set once it is to be replaced.
        self.lost = asyncio.Event()
        # How it ended.
        self.ended: asyncio.Future[str] = self._loop.create_future()
        self._control, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        try:
            self._control.send(settings.model_dump_json().encode())
            self._process = _start(far)
        except BaseException:
            self._control.close()
            raise
        finally:
            far.close()
        self._loop.add_reader(self._control, self._read)

    @property
    def pid(self) -> int:
        return self._process.pid

    def open_lane(self, engine: str, folder: Path, sha256: str) -> socket.socket:
        """A socket whose other end the process serves with `engine` for the package in `folder`."""
        near, far = socket.socketpair()
        with far:
            ask = {"engine": engine, "folder": str(folder), "sha256": sha256}
            try:
                socket.send_fds(self._control, [orjson.dumps(ask)], [far.fileno()])
            except OSError as error:
                # The lane sees its far end closed.
                self.lose(f"does not take requests ({error.strerror})")
        return near

    def lose(self, why: str, *, hangs: bool = False) -> None:
        """It is of no use any more; `why` completes "the engine's process ..."."""
        if not self.lost.is_set():
            self._why = why
            self._hangs = hangs
            self.lost.set()

    async def end(self, limit_s: float = _LEAVE_LIMIT_S) -> str:
        """See it to its end: unless it is lost, ask it to leave; kill it after `limit_s`, or at
        once if it hangs.

        How it ended, as the completion of "the engine's process ...".
        """
        self._loop.remove_reader(self._control)
        if not self.lost.is_set():
            self._control.shutdown(socket.SHUT_WR)
        code = await asyncio.to_thread(self._wait, 0.0 if self._hangs else limit_s)
        if code is None:
            code = await self._kill()
        else:
            # Whatever was noticed of it came of its end.
            self._why = None
        how = _ending(code) if self._why is None else f"{self._why}, was killed"
        self._take_reports()
        self._control.close()
        if not self.ended.done():
            self.ended.set_result(how)
        return how

    async def _kill(self) -> int | None:
        self._process.kill()
        return await asyncio.to_thread(self._wait, _KILL_LIMIT_S)

    def _wait(self, limit_s: float) -> int | None:
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None

    def _read(self) -> None:
        if not self._take_reports():
            self._loop.remove_reader(self._control)
            self.lost.set()

    def _take_reports(self) -> bool:
        """Pass on what boards report; whether the process still has its end of the socket."""
        while True:
            try:
                message = self._control.recv(_MESSAGE_BYTES)
                if not message:
                    return False
                event, what = orjson.loads(message)
                self._report(event, what)
            except BlockingIOError:
                return True
            except OSError:
                return False
            except ValueError:
                self.lose("sent what is no report")
                return True


def _start(control: socket.socket) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "emamba_service.lanes.child", str(control.fileno())]
    return subprocess.Popen(
        command,
        pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL,
        # Standard output is the service's greeting alone.
        stdout=2,
        # Modules come from where the service's own do, never from the working directory.
        env=os.environ | {"PYTHONSAFEPATH": "1"},
        # Ctrl-C reaches the service alone, which drains before it lets its engines go.
        start_new_session=True,
    )


def _ending(code: int | None) -> str:
    if code is None:
        return f"did not end within {_KILL_LIMIT_S:g} s of being killed"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
