"""The far end of a lane: opens an engine and computes what comes, in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from emamba.engines import Engine, EngineError, EngineUnavailableError, Recorded
from emamba_service.lanes.wire import MAX_NOTE_BYTES, Kind, Reader, WireError, pack

__all__ = ["STATUS_INTERVAL_S", "serve_lane"]

_log = logging.getLogger(__name__)

# A board recovers by itself, also while it computes or nothing is asked of it.
STATUS_INTERVAL_S = 0.2
_CHUNK_BYTES = 64 * 1024


def serve_lane(sock: socket.socket, open_engine: Callable[[], Engine]) -> None:
    """Open an engine and answer the runs of `sock` until the other end closes it.

    Blocks. Closes the engine, then the socket. What `open_engine` and the engine raise goes to the
    other end.
    """
    with sock:
        try:
            engine = _opened(sock, open_engine)
            if engine is not None:
                _Serving(sock, engine).serve()
        except OSError:
            _log.debug("the other end of a lane has gone", exc_info=True)
        except WireError as error:
            _log.error("a lane is closed, since its other end has sent what is no run: %s", error)


def _opened(sock: socket.socket, open_engine: Callable[[], Engine]) -> Engine | None:
    try:
        return open_engine()
    except EngineError as error:
        sentence = str(error)
    except Exception:
        _log.exception("an engine does not open")
        sentence = "the engine does not open; the service's log says why"
    sock.sendall(pack(Kind.FAILED, _note(sentence)))
    return None


class _Serving:
    """An open engine on a socket. Two threads send: the one that computes, and the one that
    watches the engine's status."""

    def __init__(self, sock: socket.socket, engine: Engine) -> None:
        self._sock = sock
        self._engine = engine
        self._name = engine.info.name
        self._sending = threading.Lock()
        self._told = engine.status
        self._over = threading.Event()
        self._watch = threading.Thread(
            target=self._watch_status, name="emamba-lane-status", daemon=True
        )

    def serve(self) -> None:
        try:
            info, told = self._engine.info, self._told
            opened = {"name": info.name, "description": info.description}
            about = opened | {"state": told.state, "reason": told.reason}
            self._sock.sendall(pack(Kind.OPENED, orjson.dumps(about)))
            self._watch.start()
            self._serve_runs()
        finally:
            self._over.set()
            if self._watch.ident is not None:
                self._watch.join()
            self._close()

    def _serve_runs(self) -> None:
        reader = Reader()
        while data := self._sock.recv(_CHUNK_BYTES):
            for frame in reader.feed(data):
                if frame.kind != Kind.RUN or frame.array is None:
                    raise WireError(f"a run must come, but a frame of kind {frame.kind.name} came")
                answer = self._answer(frame.array)
                with self._sending:
                    # Before the answer, so that whoever has it knows of what it took.
                    self._tell_status()
                    self._sock.sendall(answer)

    def _answer(self, batch: npt.NDArray[np.int8]) -> bytes:
        try:
            recorded = self._engine.record(batch)
            if len(recorded.outputs) != len(batch):
                raise WireError(
                    f"{len(batch)} frames must have one answer each, "
                    f"but {len(recorded.outputs)} came"
                )
            return pack(Kind.ANSWER, self._about(recorded), recorded.outputs)
        except EngineUnavailableError as error:
            return pack(Kind.UNAVAILABLE, _note(str(error)))
        except EngineError as error:
            return pack(Kind.FAILED, _note(str(error)))
        except Exception:
            _log.exception("engine %s failed on a request", self._name)
            sentence = f"engine {self._name} failed on this request; the service's log says why"
            return pack(Kind.FAILED, _note(sentence))

    def _about(self, recorded: Recorded) -> bytes:
        """The note of an answer; empty if the engine itself has computed and tells no stages."""
        if recorded.engine == self._name and not recorded.stages_s:
            return b""
        about: dict[str, Any] = {"engine": recorded.engine, "stages_s": dict(recorded.stages_s)}
        return orjson.dumps(about, option=orjson.OPT_SERIALIZE_NUMPY)

    def _watch_status(self) -> None:
        try:
            while not self._over.wait(STATUS_INTERVAL_S):
                with self._sending:
                    self._tell_status()
        except OSError:
            _log.debug("the other end of a lane has gone", exc_info=True)

    def _tell_status(self) -> None:
        status = self._engine.status
        if status != self._told:
            self._told = status
            about = {"state": status.state, "reason": status.reason}
            self._sock.sendall(pack(Kind.STATUS, orjson.dumps(about)))

    def _close(self) -> None:
        try:
            self._engine.close()
        except Exception:
            _log.exception("engine %s failed to close", self._name)


def _note(sentence: str) -> bytes:
    return sentence.encode(errors="replace")[:MAX_NOTE_BYTES]
