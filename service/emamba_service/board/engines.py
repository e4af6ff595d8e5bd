"""Opens any engine by name: those of `emamba.engines`, a board, or an emulated one."""

from __future__ import annotations

import importlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from emamba.compiler import Compiler, NativeError, cache_folder
from emamba.engines import Engine, EngineError, EngineInfo, open_engine
from emamba.export.image import ImageError
from emamba.export.pipeline import TapError
from emamba.export.presets import PresetError
from emamba.fixed import IntegerModel
from emamba.overlay import (
    BitstreamError,
    HandoffError,
    ManifestError,
    OverlayFolder,
    check_fit,
    emulated_overlay,
    open_overlay,
)
from emamba.simulated import build_simulation
from emamba_service.board.bare import BareBoard
from emamba_service.board.board import Board, Limits, Loadable, Report
from emamba_service.board.counts import count_faults
from emamba_service.board.engine import BoardEngine
from emamba_service.board.host import PynqHost, check_board, check_pynq
from emamba_service.board.owner import BoardOwner
from emamba_service.board.ports import BoardError, Host
from emamba_service.emulator import parse
from emamba_service.lanes import EngineFactory
from emamba_service.settings import Settings

__all__ = ["BOARD_ENGINES", "BareFactory", "open_bare_for", "open_engine_for", "open_reporting"]

BOARD_ENGINES = ("board", "emulator")
BareFactory = Callable[[str, IntegerModel], Engine | BareBoard]
_REFUSALS = (
    *(BitstreamError, HandoffError, ImageError, ManifestError),
    *(NativeError, PresetError, TapError),
)


def open_engine_for(settings: Settings, registry: CollectorRegistry | None = None) -> EngineFactory:
    """`open_reporting`, with faults counted in `registry`."""
    return open_reporting(settings, count_faults(registry or CollectorRegistry()))


def open_reporting(settings: Settings, report: Report) -> EngineFactory:
    """A factory `(name, model) -> Engine` for every engine's name.

    Models of one config hash share one board. `report` is told of faults and what mended them. The
    factory raises `EngineError`.
    """
    boards = _Boards(settings, report)

    def open_named(name: str, model: IntegerModel) -> Engine:
        if name not in BOARD_ENGINES:
            return open_engine(name, model)
        with _refusing(name):
            return boards.open(name, model)

    return open_named


def open_bare_for(
    settings: Settings, registry: CollectorRegistry | None = None, tap: str | None = None
) -> BareFactory:
    """As `open_engine_for`, for verification: each board is a `BareBoard` of its own, untested.

    A board whose golden frames come out wrong is opened too, so that a verdict can say where. With
    `tap`, a stream's name, the kernel answers with that stage's tokens.
    """
    report = count_faults(registry or CollectorRegistry())

    def open_named(name: str, model: IntegerModel) -> Engine | BareBoard:
        if name not in BOARD_ENGINES:
            return open_engine(name, model)
        with _refusing(name), ExitStack() as stack:
            loadable = Loadable(model, tap, tested=False)
            board = _open_board(name, settings, loadable, report, stack)
            return BareBoard(board, loadable, _info(name, settings), stack.pop_all().close)

    return open_named


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Whatever a board's engine is refused for as an `EngineError` that names the engine."""
    try:
        yield
    except (EngineError, *_REFUSALS) as error:
        raise EngineError(f"{name}: {error}") from error


@dataclass
class _Open:
    """An open board, how many engines use it, and what closing it closes."""

    board: Board
    stack: ExitStack
    users: int = 0


class _Boards:
    """The boards that are open, by engine name and config hash."""

    def __init__(self, settings: Settings, report: Report) -> None:
        self._settings = settings
        self._report = report
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str], _Open] = {}

    def open(self, name: str, model: IntegerModel) -> Engine:
        """An engine for `model` on a board that is opened for the first of its config hash."""
        loadable = Loadable(model)
        key = (name, model.config_hash)
        with self._lock:
            shared = self._open.get(key)
            if shared is None:
                with ExitStack() as stack:
                    board = _open_board(name, self._settings, loadable, self._report, stack)
                    shared = self._open[key] = _Open(board, stack.pop_all())
            shared.users += 1
        return BoardEngine(
            shared.board,
            loadable,
            _info(name, self._settings),
            _deputy(model),
            guard=self._settings.guard,
            falls_back=self._settings.fallback != "none",
            on_close=lambda: self._release(key),
        )

    def _release(self, key: tuple[str, str]) -> None:
        with self._lock:
            shared = self._open[key]
            shared.users -= 1
            if shared.users == 0:
                del self._open[key]
                shared.stack.close()


def _info(name: str, settings: Settings) -> EngineInfo:
    if name == "board":
        return EngineInfo(name, "the overlay's kernel on this board's programmable logic")
    faults = settings.emulator_faults
    injected = f"; it makes faults: {faults}" if faults else ""
    return EngineInfo(name, f"an emulated ZCU102 under pynq; its times are modelled{injected}")


def _open_board(
    name: str, settings: Settings, loadable: Loadable, report: Report, stack: ExitStack
) -> Board:
    """A configured board that closes with `stack`."""
    opened = _open_emulator if name == "emulator" else _open_real
    host = opened(settings, loadable, stack)
    limits = Limits(settings.transfer_frames, settings.transfer_timeout_s)
    board = Board(host, loadable, limits, report, name)
    stack.callback(board.close)
    return board


def _open_real(settings: Settings, loadable: Loadable, stack: ExitStack) -> Host:
    if settings.overlay is None:
        raise BoardError(
            "an overlay must be named, but is not; build one with make overlay and name its "
            "folder with --overlay or EMAMBA_OVERLAY, or use --engine emulator"
        )
    overlay = _fitting(settings.overlay, loadable)
    if overlay.emulated:
        raise BoardError(
            f"{overlay.path} must hold a bitstream, but is an overlay for emulated boards; "
            "build one with make overlay, or use --engine emulator"
        )
    check_board()
    stack.enter_context(BoardOwner(settings.board_lock))
    return PynqHost(overlay)


def _open_emulator(settings: Settings, loadable: Loadable, stack: ExitStack) -> Host:
    model, tap = loadable.model, loadable.tap
    check_pynq()
    if settings.overlay is None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emamba-overlay-")))
        overlay = emulated_overlay(model, settings.emulator_preset, folder, tap)
    else:
        overlay = _fitting(settings.overlay, loadable)
    library = build_simulation(
        model.config, overlay.manifest["preset"], Compiler.find(), cache_folder(), tap
    )
    # Imports pynq, which not everyone has.
    emulated = importlib.import_module("emamba_service.emulator.device")
    device = emulated.EmulatedDevice(library, parse(settings.emulator_faults))
    stack.callback(device.close)
    return PynqHost(overlay, device, device.time)


def _fitting(folder: Path, loadable: Loadable) -> OverlayFolder:
    overlay = open_overlay(folder)
    check_fit(overlay, loadable.model.config_hash)
    if overlay.tap != loadable.tap:
        must, does = _answer_of(loadable.tap), _answer_of(overlay.tap)
        option = "without --tap" if loadable.tap is None else f"with --tap {loadable.tap}"
        raise BoardError(
            f"the overlay {overlay.path} must answer with {must}, but answers with {does}; name "
            f"one built {option}: what answers with a stream is for emamba-service verify alone"
        )
    return overlay


def _answer_of(tap: str | None) -> str:
    return "outputs" if tap is None else f"the stream {tap}"


def _deputy(model: IntegerModel) -> Engine:
    """Who computes the same integers on this machine: the fastest that opens."""
    return open_engine("auto", model)
