"""Where engines run: threads of this process, or a process of their own that may crash and hang."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from emamba.engines import Engine, EngineError, EngineStatus
from emamba.fixed import IntegerModel
from emamba.package import Package
from emamba_service.board.counts import count_faults
from emamba_service.lanes.lane import Lane, LaneLostError
from emamba_service.lanes.process import EngineProcess
from emamba_service.lanes.serving import serve_lane
from emamba_service.settings import Settings

__all__ = ["OPEN_LIMIT_S", "EngineFactory", "EngineRoom", "Pauses", "ProcessRoom", "ThreadRoom"]

_log = logging.getLogger(__name__)

# Opens an engine by name for a model; raises `EngineError`.
EngineFactory = Callable[[str, IntegerModel], Engine]

# Opening may compile an engine or download a bitstream.
OPEN_LIMIT_S = 120.0
_LEAVE_LIMIT_S = 5.0


class Pauses:
    """Seconds to wait before each attempt after the first: twice as long each time, up to
    `LONGEST_S`. What an attempt gave that lasted `HEALTHY_S` did not fail for being attempted, so
    that the pauses begin anew."""

    FIRST_S, LONGEST_S, HEALTHY_S = 0.1, 30.0, 60.0

    def __init__(self) -> None:
        self._next_s = self.FIRST_S

    def after(self, lasted_s: float = 0.0) -> float:
        """The next pause, given how long the last attempt's result lasted."""
        pause_s = self.FIRST_S if lasted_s >= self.HEALTHY_S else self._next_s
        self._next_s = min(2 * pause_s, self.LONGEST_S)
        return pause_s


class EngineRoom(Protocol):
    """Opens engines away from the event loop. Of one event loop, not thread-safe."""

    async def open(self, engine: str, folder: Path, package: Package) -> Lane:
        """A lane to `engine` for `package`, read from `folder`; raises `EngineError`."""
        ...

    async def close(self) -> None:
        """Close every lane and what they ran in."""
        ...


class ThreadRoom:
    """Engines in threads of this process: nothing ends one that hangs, a crash is the service's."""

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._lanes: set[Lane] = set()

    async def open(self, engine: str, folder: Path, package: Package) -> Lane:
        del folder
        lane = _ThreadLane(self)
        near, far = socket.socketpair()

        def open_engine() -> Engine:
            lane.engine = self._factory(engine, package.model)
            return lane.engine

        threading.Thread(
            target=serve_lane, args=(far, open_engine), name="emamba-lane", daemon=True
        ).start()
        try:
            await lane.connect(near, OPEN_LIMIT_S)
        except LaneLostError:
            raise EngineError(f"{engine}: its thread must open it, but has ended") from None
        self._lanes.add(lane)
        return lane

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in list(self._lanes)))

    def lane_lost(self, lane: Lane, why: str) -> None:
        """Answer for the thread, which has ended."""
        lane.lose(EngineStatus("failed", f"the engine's thread {why}; start the service anew"))

    def lane_hung(self, lane: Lane, why: str) -> None:
        """Leave the thread behind."""
        _log.error("the thread of engine %s %s", lane.info.name, why)

    lane_unopened = lane_hung

    def lane_closed(self, lane: Lane) -> None:
        """Forget `lane`."""
        self._lanes.discard(lane)


class _ThreadLane(Lane):
    """Asks the engine for its status, which is in this process."""

    engine: Engine | None = None

    @property
    def status(self) -> EngineStatus:
        if self.engine is None or not self.is_connected:
            return super().status
        return self.engine.status


@dataclass(frozen=True)
class _Ask:
    """What a lane is opened with."""

    engine: str
    folder: Path
    sha256: str


class ProcessRoom:
    """All engines in one process, for a board has one owner. A process that dies, or that does not
    answer within `engine_timeout_s` and is killed, is replaced, and its lanes' engines are opened
    anew.

    `registry` gets the restarts and the faults of boards. `clock` gives seconds; an engine has
    `open_limit_s` to open.
    """

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
        open_limit_s: float = OPEN_LIMIT_S,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._open_limit_s = open_limit_s
        self._report = count_faults(registry)
        self._restarts = Counter(
            "emamba_engine_restarts", "Engine processes started anew.", registry=registry
        )
        self._lanes: dict[Lane, _Ask] = {}
        self._reopening: dict[Lane, asyncio.Task[None]] = {}
        self._process: EngineProcess | None = None
        self._started: asyncio.Future[EngineProcess] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        """The engine process, None while there is none."""
        return None if self._process is None else self._process.pid

    async def open(self, engine: str, folder: Path, package: Package) -> Lane:
        """As `EngineRoom.open`; the process reads the package itself and takes no other."""
        ask = _Ask(engine, folder.absolute(), package.sha256)
        process = await self._running()
        lane = Lane(self, self._settings.engine_timeout_s)
        try:
            await self._connect(lane, ask, process)
        except LaneLostError:
            how = await asyncio.shield(process.ended)
            raise EngineError(f"{engine}: the engine's process {how} while it opened it") from None
        self._lanes[lane] = ask
        return lane

    async def close(self) -> None:
        self._closed = True
        reopening = list(self._reopening.values())
        for task in reopening:
            task.cancel()
        await asyncio.gather(*reopening, return_exceptions=True)
        await asyncio.gather(*(lane.close() for lane in list(self._lanes)))
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        if self._started is not None and not self._started.done():
            self._start_failed("the service is stopping")
        if self._process is not None:
            await self._process.end(_LEAVE_LIMIT_S)
            self._process = None

    def lane_lost(self, lane: Lane, why: str) -> None:
        """Replace the process, which has ended or closes sockets unasked."""
        if self._process is not None:
            self._process.lose(why)

    def lane_hung(self, lane: Lane, why: str) -> None:
        """Kill the process and replace it."""
        if self._process is not None:
            self._process.lose(why, hangs=True)

    def lane_unopened(self, lane: Lane, why: str) -> None:
        """Leave the thread behind where other engines answer, else end what may hang as a whole."""
        if not any(other.is_connected for other in self._lanes):
            self.lane_hung(lane, why)

    def lane_closed(self, lane: Lane) -> None:
        """Open it no more."""
        self._lanes.pop(lane, None)
        reopening = self._reopening.pop(lane, None)
        if reopening is not None:
            reopening.cancel()

    async def _running(self) -> EngineProcess:
        """The process, or the next one; raises `EngineError` if it cannot be started."""
        if self._closed:
            raise EngineError("an engine must be opened before the service stops")
        if self._started is None:
            self._started = asyncio.get_running_loop().create_future()
            self._supervisor = asyncio.create_task(self._supervise())
            self._supervisor.add_done_callback(_log_failure)
        return await asyncio.shield(self._started)

    async def _connect(self, lane: Lane, ask: _Ask, process: EngineProcess) -> None:
        """Open what `ask` says at the other end of `lane`; `LaneLostError` if `process` is lost."""
        sock = process.open_lane(ask.engine, ask.folder, ask.sha256)
        try:
            await lane.connect(sock, self._open_limit_s)
        except LaneLostError:
            process.lose("closed the socket of an engine")
            raise

    async def _supervise(self) -> None:
        """Start processes, each after the end of the one before, and open the lanes' engines."""
        pauses = Pauses()
        is_first = True
        while not self._closed:
            process = self._start()
            started_s = self._clock()
            if process is not None:
                if not is_first:
                    self._restarts.inc()
                is_first = False
                await process.lost.wait()
                await self._mourn(process)
            await asyncio.sleep(pauses.after(self._clock() - started_s))

    def _start(self) -> EngineProcess | None:
        assert self._started is not None
        try:
            process = EngineProcess(self._settings, self._report)
        except OSError as error:
            why = f"the engine's process must start, but does not: {error}"
            _log.error("%s", why)
            self._start_failed(why)
            return None
        self._process = process
        self._started.set_result(process)
        for lane, ask in self._lanes.items():
            reopening = asyncio.create_task(self._reopen(lane, ask, process))
            reopening.add_done_callback(_log_failure)
            self._reopening[lane] = reopening
        return process

    def _start_failed(self, why: str) -> None:
        """Tell who waits for a process, and have others wait for the next."""
        if self._started is not None:
            self._started.set_exception(EngineError(why))
            # Nobody may be waiting.
            self._started.exception()
        self._started = asyncio.get_running_loop().create_future()

    async def _mourn(self, process: EngineProcess) -> None:
        """See `process` to its end and tell its lanes."""
        for reopening in self._reopening.values():
            reopening.cancel()
        self._reopening.clear()
        how = await process.end()
        self._process = None
        self._started = asyncio.get_running_loop().create_future()
        _log.error("the engine's process %s and is being started anew", how)
        sentence = f"the engine's process {how} and is being started anew; try again"
        for lane in self._lanes:
            lane.lose(EngineStatus("recovering", sentence))

    async def _reopen(self, lane: Lane, ask: _Ask, process: EngineProcess) -> None:
        """Open a lane's engine in a new process, as often as it takes."""
        pauses = Pauses()
        while True:
            try:
                await self._connect(lane, ask, process)
            except LaneLostError:
                return
            except EngineError as error:
                _log.error("an engine for %s does not open anew: %s", ask.folder, error)
                lane.lose(EngineStatus("failed", f"{error}; it is tried again"))
            else:
                _log.warning("engine %s for %s is open anew", lane.info.name, ask.folder)
                self._reopening.pop(lane, None)
                return
            await asyncio.sleep(pauses.after())


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("engines are not watched any more", exc_info=error)
