"""Loading, swapping and unloading models while requests are answered."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from emamba.engines import EngineError
from emamba.fixed import Mirror
from emamba.package import PackageError, load_package
from emamba_service.errors import ModelRefusedError, NotReadyError, UnknownModelError
from emamba_service.lanes import ThreadRoom
from emamba_service.models import Models, Repository
from emamba_service.scheduler import Scheduler
from random_images import GREY_CONFIG, write_images
from random_models import MARS_CONFIG


class Stage:
    """A repository over a folder of packages, and the engines that a test can make err."""

    def __init__(self, root: Path, engines, one_network: bool = False) -> None:
        self.root = root
        self.engines = engines
        self.models = Models("mars")
        loop = asyncio.get_running_loop()
        self.repository = Repository(
            self.models,
            root,
            "board",
            ThreadRoom(engines),
            lambda package, lane, _statistics: Scheduler(
                package,
                lane,
                max_batch=8,
                max_queue=64,
                delay_s=0,
                clock=loop.time,
                observe_batch=lambda *_: None,
            ),
            drain_timeout_s=5,
            one_network=one_network,
        )

    def served(self) -> list[tuple[str, str]]:
        return [(model.package.version, model.package.sha256) for model in self.models]

    def served_names(self) -> list[str]:
        return [model.package.name for model in self.models]

    def index(self) -> list[tuple[str, str, str]]:
        return [(entry.version, entry.state, entry.reason) for entry in self.repository.index()]

    async def computes(self, version: str | None, seed: int) -> bool:
        """Whether the served model computes a frame as the mirror of its package does."""
        model = self.models.get("mars", version)
        features = np.random.default_rng(seed).random((1, 8, 8, 5), np.float32)
        computed = await model.scheduler.submit(features, "test", 10)
        expected = Mirror(model.package.model).run(model.package.encode(features))
        return np.array_equal(computed.recorded.outputs, expected)


@pytest.fixture
def play(tmp_path, engines, new_package):
    """Runs a scene with a folder that holds mars 1, which is loaded."""
    root = tmp_path / "models"

    def run(scene: Callable[[Stage], Awaitable[None]], one_network: bool = False) -> None:
        async def on_stage() -> None:
            stage = Stage(root, engines, one_network)
            try:
                await stage.repository.open()
                await stage.repository.open_others()
                await scene(stage)
            finally:
                await stage.repository.close()
            assert all(engine.closed for engine in engines.opened)

        asyncio.run(on_stage())

    new_package(root, "1")
    return run


def test_new_version_is_served_beside_the_old(play, new_package):
    async def scene(stage):
        new_package(stage.root, "2")
        assert stage.index() == [("1", "READY", ""), ("2", "UNAVAILABLE", "not loaded")]
        before = stage.models.get("mars", "1")
        await stage.repository.load("mars")
        assert stage.models.get("mars", "1") is before, "what has not changed is left alone"
        assert stage.models.get("mars").package.version == "2"
        assert stage.index() == [("1", "READY", ""), ("2", "READY", "")]
        assert await stage.computes(None, 3)

    play(scene)


def test_changed_version_takes_the_place_of_the_old_which_is_closed(play, new_package):
    async def scene(stage):
        before = stage.served()
        shutil.rmtree(stage.root / "mars" / "1")
        new_package(stage.root, "1", seed=7)
        await stage.repository.load("mars")
        assert stage.served() != before
        assert await stage.computes("1", 4)
        assert [engine.closed for engine in stage.engines.opened] == [True, False]

    play(scene)


def test_requests_go_on_during_a_swap(play, new_package):
    async def scene(stage):
        over = asyncio.Event()
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while not over.is_set():
                assert await stage.computes(None, answered)
                answered += 1

        asking = [asyncio.ensure_future(ask()) for _ in range(3)]
        for seed in (1, 2, 3):
            shutil.rmtree(stage.root / "mars" / "1")
            new_package(stage.root, "1", seed=seed)
            await stage.repository.load("mars")
        over.set()
        await asyncio.gather(*asking)
        assert answered > 3

    play(scene)


def test_wrong_engine_is_refused_and_the_old_version_served_on(play, new_package):
    async def scene(stage):
        before = stage.served()
        new_package(stage.root, "2")
        made = stage.engines.__class__.__call__

        class Erring(type(stage.engines)):
            def __call__(self, name, model):
                engine = made(self, name, model)
                engine.flips[(0, 5)] = 1
                return engine

        stage.engines.__class__ = Erring
        with pytest.raises(ModelRefusedError) as refused:
            await stage.repository.load("mars")
        assert str(refused.value).startswith(
            "engine board of mars 2 must compute its golden frames as the mirror does, "
            "but output 5 of frame 0 must be "
        )
        assert str(refused.value).endswith("; what was loaded before is served on")
        assert stage.served() == before
        assert await stage.computes("1", 5)
        (_, state, reason) = stage.index()[1]
        assert state == "UNAVAILABLE"
        assert "must compute its golden frames" in reason

    play(scene)


def test_damaged_package_is_refused_and_nothing_changes(play, new_package):
    async def scene(stage):
        before = stage.served()
        new_package(stage.root, "2")
        new_package(stage.root, "3")
        weights = stage.root / "mars" / "3" / "weights.npz"
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(ModelRefusedError, match=r"SHA-256 must be the one in model\.json"):
            await stage.repository.load("mars")
        assert stage.served() == before, "not even the sound version 2 is loaded"

    play(scene)


def test_version_that_is_gone_is_unloaded_by_loading_anew(play, new_package):
    async def scene(stage):
        new_package(stage.root, "2")
        await stage.repository.load("mars")
        shutil.rmtree(stage.root / "mars" / "2")
        await stage.repository.load("mars")
        assert stage.index() == [("1", "READY", "")]

    play(scene)


def test_unloading_answers_what_waits_then_knows_the_model_no_more(play):
    async def scene(stage):
        model = stage.models.get("mars")
        frame = np.zeros((1, 8, 8, 5), np.float32)
        waiting = [model.scheduler.submit(frame, "test", 10) for _ in range(5)]
        await stage.repository.unload("mars")
        for one in waiting:
            await one
        with pytest.raises(UnknownModelError) as unknown:
            stage.models.get("mars")
        assert str(unknown.value) == "a model must be loaded, but all have been unloaded"
        assert stage.index() == [("1", "UNAVAILABLE", "not loaded")]
        with pytest.raises(UnknownModelError):
            await stage.repository.unload("mars")
        await stage.repository.load("mars")
        assert await stage.computes(None, 6)

    play(scene)


def test_name_that_the_folder_does_not_hold(play):
    async def scene(stage):
        with pytest.raises(UnknownModelError) as unknown:
            await stage.repository.load("venus")
        assert str(unknown.value) == (
            f"{stage.root} must hold a package of 'venus', but holds mars"
        )

    play(scene)


def test_one_change_at_a_time(play, new_package):
    async def scene(stage):
        new_package(stage.root, "2")
        first = asyncio.ensure_future(stage.repository.load("mars"))
        second = asyncio.ensure_future(stage.repository.unload("mars"))
        await asyncio.sleep(0)
        await asyncio.gather(first, second)
        assert stage.served() == []

    play(scene)


def test_start_without_the_default_model_or_with_an_engine_that_does_not_open(
    tmp_path, engines, new_package
):
    async def start(root: Path, factory) -> None:
        stage = Stage(root, factory)
        try:
            await stage.repository.open()
        finally:
            await stage.repository.close()

    with pytest.raises(PackageError, match="must be a folder of packages, but does not exist"):
        asyncio.run(start(tmp_path / "none", engines))
    new_package(tmp_path, "1")
    new_package(tmp_path, "2")

    calls = itertools.count()

    def second_refuses(name, model):
        if next(calls) == 1:
            raise EngineError("only one fits")
        return engines(name, model)

    with pytest.raises(EngineError, match="only one fits"):
        asyncio.run(start(tmp_path, second_refuses))
    assert [engine.closed for engine in engines.opened] == [True]


def test_default_model_answers_while_others_are_loaded(tmp_path, engines, new_package):
    """Until then the others are LOADING and refused; a change of models waits for them."""
    gate = threading.Event()

    def slow_for_others(name, model):
        if model.config != MARS_CONFIG:
            assert gate.wait(10)
        return engines(name, model)

    async def scene() -> None:
        stage = Stage(tmp_path, slow_for_others)
        await stage.repository.open()
        assert stage.served_names() == ["mars"]
        assert await stage.computes(None, 3)
        states = {entry.name: entry.state for entry in stage.repository.index()}
        assert states == {"digits": "LOADING", "letters": "LOADING", "mars": "READY"}
        for version in (None, "1"):
            with pytest.raises(NotReadyError) as early:
                stage.models.get("digits", version)
        assert str(early.value) == "digits 1 is being loaded; try again after 1 s"
        with pytest.raises(UnknownModelError):
            stage.models.get("venus")
        unloading = asyncio.ensure_future(stage.repository.unload("letters"))
        await asyncio.sleep(0.05)
        assert not unloading.done()
        gate.set()
        await unloading
        assert stage.served_names() == ["digits", "mars"]
        await stage.repository.close()

    new_package(tmp_path, "1")
    write_images(tmp_path, "digits", "1", GREY_CONFIG)
    write_images(tmp_path, "letters", "1", GREY_CONFIG)
    asyncio.run(scene())
    assert all(engine.closed for engine in engines.opened)


def test_other_model_whose_engine_does_not_open_harms_nobody(
    tmp_path, engines, new_package, caplog
):
    def refuses_others(name, model):
        if model.config != MARS_CONFIG:
            raise EngineError("no place left")
        return engines(name, model)

    async def scene() -> None:
        stage = Stage(tmp_path, refuses_others)
        await stage.repository.open()
        await stage.repository.open_others()
        digits, mars = stage.repository.index()
        assert (digits.state, digits.reason) == ("UNAVAILABLE", "no place left")
        assert mars.state == "READY"
        with pytest.raises(UnknownModelError):
            stage.models.get("digits")
        await stage.repository.close()

    new_package(tmp_path, "1")
    write_images(tmp_path, "digits", "1", GREY_CONFIG)
    asyncio.run(scene())
    assert "digits 1 is not served: no place left" in caplog.text


def test_other_model_whose_engine_opens_at_the_second_try_is_served(tmp_path, engines, new_package):
    """Another may have taken the engines' process along."""
    tried = []

    def refuses_others_once(name, model):
        if model.config != MARS_CONFIG and len(tried) < 2:
            tried.append(model)
            raise EngineError("the engine's process was ended by SIGSEGV while it opened it")
        return engines(name, model)

    async def scene() -> None:
        stage = Stage(tmp_path, refuses_others_once)
        await stage.repository.open()
        await stage.repository.open_others()
        assert [entry.state for entry in stage.repository.index()] == ["READY"] * 3
        assert stage.models.changing == {}
        await stage.repository.close()

    new_package(tmp_path, "1")
    write_images(tmp_path, "digits", "1", GREY_CONFIG)
    write_images(tmp_path, "letters", "1", GREY_CONFIG)
    asyncio.run(scene())


def test_end_during_the_start_closes_what_was_opened(tmp_path, engines, new_package):
    async def scene() -> None:
        stage = Stage(tmp_path, engines)
        await stage.repository.open()
        await stage.repository.close()
        assert {entry.state for entry in stage.repository.index()} <= {"READY", "UNAVAILABLE"}

    new_package(tmp_path, "1")
    for number in range(8):
        write_images(tmp_path, f"digits-{number}", "1", GREY_CONFIG)
    asyncio.run(scene())
    assert engines.opened
    assert all(engine.closed for engine in engines.opened)


def test_packages_of_the_test_differ(tmp_path, new_package):
    hashes = {load_package(new_package(tmp_path, str(seed), seed=seed)).sha256 for seed in range(3)}
    assert len(hashes) == 3


def test_a_board_serves_the_networks_of_its_bitstream(play, new_package, tmp_path):
    """Another network needs another bitstream: it is listed, not opened, and harms nobody."""

    async def scene(stage):
        other = "the board must have this network's bitstream, but has that of mars"
        entries = {(e.name, e.version): (e.state, e.reason) for e in stage.repository.index()}
        state, reason = entries["digits", "1"]
        assert (state, reason.split(";")[0]) == ("UNAVAILABLE", other)
        assert entries["mars", "1"] == entries["mars", "2"] == ("READY", "")
        assert len(stage.engines.opened) == 2

    write_images(tmp_path / "models", "digits", "1", GREY_CONFIG)
    new_package(tmp_path / "models", "2")
    play(scene, one_network=True)


def test_other_engines_serve_every_network(play, tmp_path):
    async def scene(stage):
        assert stage.served_names() == ["digits", "mars"]

    write_images(tmp_path / "models", "digits", "1", GREY_CONFIG)
    play(scene)
