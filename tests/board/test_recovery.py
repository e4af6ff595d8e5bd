"""Faults by the hundred: never a wrong answer, never a wait beyond its bound, always visible."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from board.parts import frames_of
from emamba.engines import EngineInfo, EngineUnavailableError, MirrorEngine
from emamba.fixed import Mirror
from emamba.overlay import open_overlay
from emamba.package import Package
from emamba_service.board.board import Board, Limits, Loadable
from emamba_service.board.engine import BoardEngine, Guard
from emamba_service.board.host import PynqHost
from emamba_service.board.ports import BoardError
from emamba_service.emulator import KINDS
from random_models import random_model

SEEDS = 100 if os.environ.get("EMAMBA_VERIFY") == "full" else 4
LIMITS = Limits(transfer_frames=8, timeout_s=0.02, retry_s=3600, longest_retry_s=3600)
# One request: three attempts and two mendings, with at most three waits each that end late.
LONGEST_S = 15 * LIMITS.timeout_s
# These come with a download or an allocation, so something must make one necessary.
AT_DOWNLOAD = ("wrong_identity", "cma_exhausted")
# These may cost time, but nothing has to be mended.
HARMLESS = ("interrupt_lost", "interrupt_spurious")


class Bench:
    """A board engine on an emulated board, and what it reported."""

    def __init__(self, device: Any, package: Package, overlay: Path, limits: Limits) -> None:
        self.device, self.model = device, package.model
        self.mirror = Mirror(package.model)
        self.loadable = Loadable(package.model)
        self.events: Counter[tuple[str, str]] = Counter()
        self._host = PynqHost(open_overlay(overlay), device, device.time)
        self.board = Board(self._host, self.loadable, limits, self._report)

    def _report(self, event: str, what: str) -> None:
        self.events[event, what] += 1

    def engine(self, guard: Guard = "every", falls_back: bool = True) -> BoardEngine:
        return BoardEngine(
            self.board,
            self.loadable,
            EngineInfo("emulator", "under test"),
            MirrorEngine(self.model),
            guard=guard,
            falls_back=falls_back,
        )

    def faults_seen(self) -> Counter[str]:
        seen = Counter({what: n for (event, what), n in self.events.items() if event == "fault"})
        return +seen


@pytest.fixture
def bench(
    new_device: Callable[[], Any], mars: Package, overlay_folder: Path
) -> Iterator[Callable[..., Bench]]:
    made = []

    def make(limits: Limits = LIMITS) -> Bench:
        made.append(Bench(new_device(), mars, overlay_folder, limits))
        return made[-1]

    yield make
    for one in made:
        one.board.close()


def run_checked(bench: Bench, engine: BoardEngine, frames: int, seed: int) -> str:
    """One request: the right bits, or a refusal, in bounded time; returns who answered."""
    batch = frames_of(bench.model, frames, seed)
    modelled_s, wall_s = bench.device.time.now(), time.monotonic()
    try:
        recorded = engine.record(batch)
    except EngineUnavailableError:
        return "nobody"
    finally:
        assert bench.device.time.now() - modelled_s <= LONGEST_S
        assert time.monotonic() - wall_s <= 20
    np.testing.assert_array_equal(recorded.outputs, bench.mirror.run(batch))
    return recorded.engine


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("dma_hang", "dma_error")])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_fault_gives_a_wrong_answer_or_goes_unseen(
    bench: Callable[..., Bench], kind: str, seed: int
) -> None:
    one = bench()
    chance = random.Random(f"{kind} {seed}")
    engine = one.engine(falls_back=chance.random() < 0.7)
    faults = one.device.faults
    faults.random.seed(seed)
    rate = chance.choice([None, None, 0.05, 1.0])
    faults.arm(kind, after=chance.randrange(40) if rate is None else 0, rate=rate)
    if kind in AT_DOWNLOAD:
        faults.arm("overlay_gone", after=chance.randrange(200))
    answered = [run_checked(one, engine, chance.randint(1, 20), seed) for _ in range(8)]
    struck, seen = faults.injected.get(kind, 0), one.faults_seen()
    if "emulator" not in answered[-1:]:
        assert one.board.status.state == "failed"
        assert engine.status.state in ("degraded", "failed")
        assert engine.status.reason
    if struck and kind not in (*HARMLESS, "weight_flip"):
        assert seen, f"{kind} struck {struck} times, but no fault was reported"
    if kind in HARMLESS:
        assert not seen
        assert answered == ["emulator"] * 8


@pytest.mark.parametrize("seed", range(SEEDS))
def test_many_faults_at_once_are_survived(bench: Callable[..., Bench], seed: int) -> None:
    one = bench()
    engine, chance = one.engine(), random.Random(seed)
    for kind in KINDS:
        if kind not in ("overlay_gone", "dma_hang", "dma_error"):
            one.device.faults.arm(kind, rate=0.02)
    one.device.faults.arm("overlay_gone", rate=0.001)
    for _ in range(10):
        run_checked(one, engine, chance.randint(1, 20), seed)


@pytest.mark.parametrize("kind", ["overlay_gone", "dma_hang_s2mm", "weight_flip"])
def test_a_fault_under_load_gives_nobody_a_wrong_answer(
    bench: Callable[..., Bench], kind: str
) -> None:
    one = bench()
    engine = one.engine()
    one.device.faults.arm(kind, after=20, rate=0.02 if kind == "weight_flip" else None)

    def client(number: int) -> set[str]:
        names = set()
        for request in range(15):
            batch = frames_of(one.model, 3, seed=100 * number + request)
            recorded = engine.record(batch)
            np.testing.assert_array_equal(recorded.outputs, one.mirror.run(batch))
            names.add(recorded.engine)
        return names

    with ThreadPoolExecutor(4) as pool:
        answered = set[str]().union(*pool.map(client, range(4)))
    assert one.device.faults.injected[kind] >= 1
    assert answered == {"emulator"}
    assert engine.status.state == "ready"


def test_a_hang_is_mended_by_a_new_download(bench: Callable[..., Bench]) -> None:
    one = bench()
    engine = one.engine()
    one.device.faults.arm("dma_hang_mm2s")
    assert run_checked(one, engine, 3, 0) == "emulator"
    # The kernel is left within a call, which no reset of the DMA ends.
    assert one.events == {
        ("fault", "timeout"): 1, ("fault", "busy"): 1, ("mended", "reload"): 1
    }  # fmt: skip
    assert engine.status.state == "ready"


def test_a_flip_is_mended_by_a_reset(bench: Callable[..., Bench]) -> None:
    one = bench()
    one.device.faults.arm("output_flip")
    assert run_checked(one, one.engine(guard="none"), 3, 0) == "emulator"
    assert one.events == {("fault", "transport"): 1, ("mended", "reset"): 1}


def test_weights_that_change_on_the_board_are_loaded_anew(bench: Callable[..., Bench]) -> None:
    one = bench()
    engine = one.engine()
    for seed in range(30):
        one.device.faults.arm("weight_flip")
        assert run_checked(one, engine, 8, seed) == "emulator"
    assert one.events["fault", "wrong-answer"] >= 10
    assert one.events["mended", "reset"] == one.events["fault", "wrong-answer"]


def test_without_fallback_a_lost_board_is_a_refusal_with_a_reason(
    bench: Callable[..., Bench],
) -> None:
    one = bench()
    engine = one.engine(falls_back=False)
    one.device.faults.arm("overlay_gone", persistent=True)
    for _ in range(2):
        with pytest.raises(EngineUnavailableError, match=r"^the board is out of use: .*"):
            engine.run(frames_of(one.model, 2))
    assert engine.status.state == "failed"


def test_with_fallback_a_lost_board_is_degraded(bench: Callable[..., Bench]) -> None:
    one = bench()
    engine = one.engine()
    one.device.faults.arm("overlay_gone", persistent=True)
    assert [run_checked(one, engine, 2, seed) for seed in range(3)] == ["mirror"] * 3
    assert engine.status.state == "degraded"
    assert engine.status.reason.startswith("mirror answers in its place: the board is out of use:")


def test_a_lost_board_returns_to_use_once_it_answers(bench: Callable[..., Bench]) -> None:
    one = bench(Limits(transfer_frames=8, timeout_s=0.02, retry_s=0.05))
    engine = one.engine()
    one.device.faults.arm("wrong_identity", rate=1.0)
    one.device.faults.arm("overlay_gone")
    assert run_checked(one, engine, 2, 0) == "mirror"
    one.device.faults.clear()
    until = time.monotonic() + 20
    while engine.status.state != "ready" and time.monotonic() < until:
        time.sleep(0.02)
    assert run_checked(one, engine, 2, 1) == "emulator"
    assert one.events["mended", "return"] == 1


@pytest.mark.parametrize("guard", ["every", "canary", "none"])
def test_each_guard_lets_right_answers_pass(bench: Callable[..., Bench], guard: Guard) -> None:
    one = bench()
    assert run_checked(one, one.engine(guard=guard), 20, 0) == "emulator"
    assert not one.events


def test_an_identity_that_is_wrong_at_the_start_is_refused(
    new_device: Callable[[], Any], mars: Package, overlay_folder: Path
) -> None:
    device = new_device()
    device.faults.arm("wrong_identity")
    host = PynqHost(open_overlay(overlay_folder), device, device.time)
    with pytest.raises(
        BoardError, match=r"^register config_hash must be the model's [0-9a-f]{16}, "
    ):
        Board(host, Loadable(mars.model), LIMITS)
    host.close()


def test_two_models_share_a_board(bench: Callable[..., Bench]) -> None:
    one = bench()
    other = random_model(one.model.config, 7)
    loadable, mirror = Loadable(other), Mirror(other)
    for seed in range(3):
        batch = frames_of(other, 5, seed)
        result = one.board.infer(loadable, batch, lambda outputs: None)
        np.testing.assert_array_equal(result.outputs, mirror.run(batch))
        assert run_checked(one, one.engine(), 5, seed) == "emulator"
