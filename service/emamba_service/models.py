"""The loaded packages, each behind its scheduler and lane, and how they are loaded and swapped.

A new version is opened beside the old and compared with the mirror before it takes its place; where
anything goes wrong, nothing has changed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from emamba.engines import EngineError
from emamba.export.golden import golden_frames
from emamba.fixed import Mirror
from emamba.package import Package, PackageError, find_packages, load_package, version_key
from emamba_service.errors import (
    ModelRefusedError,
    NotReadyError,
    UnknownModelError,
    UnknownVersionError,
    shortened,
)
from emamba_service.lanes import EngineRoom, Lane
from emamba_service.scheduler import Scheduler
from emamba_service.statistics import ModelStatistics

__all__ = [
    "IndexEntry",
    "LoadedModel",
    "Models",
    "Repository",
    "load_version",
]

State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]
Found = tuple[Path, Package]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A package, the open engine that computes it, and the queue in front of it."""

    package: Package
    lane: Lane
    scheduler: Scheduler
    statistics: ModelStatistics

    def summary(self) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        package, model, status = self.package, self.package.model, self.lane.status
        return {
            "name": package.name,
            "version": package.version,
            "engine": self.lane.info.name,
            "engine_state": status.state,
            "engine_reason": status.reason,
            "package_sha256": package.sha256,
            "config": model.config.to_json(),
            "parameters": model.n_parameters,
            "int8_bytes": model.int8_bytes,
            "task": _task(package),
            "accuracy": package.accuracy,
        }

    def state(self) -> dict[str, str]:
        """What `/health/ready` says of its engine."""
        status = self.lane.status
        return {
            "model": self.package.name,
            "version": self.package.version,
            "engine": self.lane.info.name,
            "state": status.state,
            "reason": status.reason,
        }

    async def close(self, timeout_s: float) -> None:
        """Answer what waits, for `timeout_s` at most, and close the engine."""
        await self.scheduler.drain(timeout_s)
        await self.lane.close()


class Models:
    """Loaded models by name and version; the versions of a name are in ascending order.

    `changing` holds the versions, by name and version, that are being loaded or unloaded.
    """

    def __init__(self, default: str) -> None:
        self.default = default
        self.changing: dict[tuple[str, str], State] = {}
        self._by_name: dict[str, dict[str, LoadedModel]] = {}

    def __iter__(self) -> Iterator[LoadedModel]:
        return (model for versions in self._by_name.values() for model in versions.values())

    @property
    def loading(self) -> list[tuple[str, str]]:
        """Names and versions of those that are being loaded."""
        return sorted(key for key, state in self.changing.items() if state == "LOADING")

    def versions(self, name: str) -> Mapping[str, LoadedModel]:
        """The loaded versions of `name`."""
        return self._by_name.get(name, {})

    def replace(self, name: str, versions: Mapping[str, LoadedModel]) -> None:
        """From the next request on, `versions` are those of `name`."""
        ordered = sorted(versions, key=version_key)
        changed = self._by_name | {name: {version: versions[version] for version in ordered}}
        self._by_name = {name: changed[name] for name in sorted(changed) if changed[name]}

    def get(self, name: str | None = None, version: str | None = None) -> LoadedModel:
        """The model asked for: the default name, the latest version unless given.

        Raises `UnknownModelError`, `UnknownVersionError`, or `NotReadyError` while it is loaded.
        """
        name = self.default if name is None else name
        versions = self._by_name.get(name)
        if versions is None:
            self._check_coming(name, version)
            if not self._by_name:
                raise UnknownModelError("a model must be loaded, but all have been unloaded")
            known = ", ".join(self._by_name)
            raise UnknownModelError(f"model must be one of {known}, but is {shortened(name)!r}")
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            self._check_coming(name, version)
            known = ", ".join(versions)
            raise UnknownVersionError(
                f"version of {name} must be one of {known}, but is {shortened(version)!r}"
            )
        return versions[version]

    def _check_coming(self, name: str, version: str | None) -> None:
        """Raise `NotReadyError` where this version, or without one any of this name, is loaded."""
        for coming, its_version in self.loading:
            if coming == name and version in {None, its_version}:
                raise NotReadyError(f"{name} {its_version} is being loaded; try again after 1 s")


@dataclass(frozen=True)
class IndexEntry:
    """A version that is loaded or lies in the models' folder; `reason` where it is not ready."""

    name: str
    version: str
    state: State
    reason: str = ""


class Repository:
    """The folder of packages, `<root>/<name>/<version>`, and what of it is loaded.

    `models` are those that are served. `engine` names the engine that `room` opens for each;
    `scheduler_for` makes the queue in front of it. With `one_network` only packages of the default
    model's sizes are opened at the start, as a board has one bitstream. One change at a time.
    """

    def __init__(
        self,
        models: Models,
        root: Path,
        engine: str,
        room: EngineRoom,
        scheduler_for: Callable[[Package, Lane, ModelStatistics], Scheduler],
        drain_timeout_s: float,
        one_network: bool = False,
    ) -> None:
        self.models = models
        self._one_network = one_network
        self._root = root
        self._engine = engine
        self._room = room
        self._scheduler_for = scheduler_for
        self._drain_timeout_s = drain_timeout_s
        self._lock = asyncio.Lock()
        self._closing = False
        self._others: asyncio.Task[None] | None = None
        self._refused: dict[tuple[str, str], str] = {}

    async def open(self) -> None:
        """Load the default model; every other package there is follows while it already answers.

        With `one_network`, only those of the default model's sizes are loaded. An engine may have
        to be compiled first, so the others take their time: see `open_others`.

        Raises `PackageError` where the root is no folder or holds no package, for a package that is
        damaged or in another's folder, and where the default model is not among them; `EngineError`
        if the engine does not open for one of its versions or computes it wrongly.
        """
        packages = [(folder, _load_named(folder)) for folder in _package_folders(self._root)]
        names = sorted({package.name for _, package in packages})
        default = self.models.default
        if default not in names:
            raise PackageError(
                self._root, f"must hold the default model {default!r}, but holds {', '.join(names)}"
            )
        if self._one_network:
            packages = self._of_one_network(packages)
        for model in await self._open_all([found for found in packages if _is(found, default)]):
            self._add(model)
        others = [found for found in packages if not _is(found, default)]
        self.models.changing |= {(one.name, one.version): "LOADING" for _, one in others}
        self._others = asyncio.create_task(self._open_each(others))

    async def open_others(self) -> None:
        """Wait until every package that `open` found is loaded or refused."""
        if self._others is not None:
            await asyncio.shield(self._others)

    async def close(self) -> None:
        """Close every engine, and the room; what is being opened has `drain_timeout_s`."""
        self._closing = True
        if self._others is not None:
            await asyncio.wait([self._others], timeout=self._drain_timeout_s)
            self._others.cancel()
            await asyncio.wait([self._others])
        for model in self.models:
            await model.close(0)
        await self._room.close()

    def index(self) -> list[IndexEntry]:
        """Every version that is loaded or lies in the folder, by name and version."""
        keys = {(folder.parent.name, folder.name) for folder in find_packages(self._root)}
        loaded = {(model.package.name, model.package.version) for model in self.models}
        ordered = sorted(keys | loaded, key=lambda key: (key[0], version_key(key[1])))
        return [self._entry(key, key in loaded) for key in ordered]

    async def load(self, name: str) -> None:
        """Make the versions of `name` in the folder those that are served.

        New and changed ones are opened beside the old and compared with the mirror; then all are
        switched at once, and the old ones answer what they have and are closed. Raises
        `UnknownModelError` where the folder holds no such name, `ModelRefusedError` where a version
        cannot be served; then nothing has changed.
        """
        await self.open_others()
        async with self._lock:
            folders = [path for path in find_packages(self._root) if path.parent.name == name]
            if not folders:
                known = ", ".join(sorted({entry.name for entry in self.index()}))
                raise UnknownModelError(
                    f"{self._root} must hold a package of {shortened(name)!r}, but holds {known}"
                )
            before = self.models.versions(name)
            after = await self._beside(folders, before)
            self.models.replace(name, after)
            await self._retire(name, [old for old in before.values() if old not in after.values()])

    async def unload(self, name: str) -> None:
        """Serve `name` no more; what waits is answered. Raises `UnknownModelError`."""
        await self.open_others()
        async with self._lock:
            before = self.models.versions(name)
            if not before:
                self.models.get(name)
            self.models.replace(name, {})
            await self._retire(name, list(before.values()))

    async def _beside(
        self, folders: list[Path], before: Mapping[str, LoadedModel]
    ) -> dict[str, LoadedModel]:
        """The versions of `folders`, from `before` where they have not changed."""
        after: dict[str, LoadedModel] = {}
        fresh: list[LoadedModel] = []
        for folder in folders:
            key = (folder.parent.name, folder.name)
            self.models.changing[key] = "LOADING"
            try:
                package = await asyncio.to_thread(_load_named, folder)
                old = before.get(package.version)
                if old is not None and old.package.sha256 == package.sha256:
                    after[package.version] = old
                    continue
                after[package.version] = await self._open(folder, package)
                fresh.append(after[package.version])
                self._refused.pop(key, None)
            except (PackageError, EngineError) as error:
                self._refused[key] = str(error)
                for model in fresh:
                    await model.close(0)
                raise ModelRefusedError(f"{error}; what was loaded before is served on") from error
            finally:
                del self.models.changing[key]
        return after

    def _of_one_network(self, packages: list[Found]) -> list[Found]:
        """Those whose sizes are the default model's newest version's; the others are refused."""
        default = self.models.default
        newest = [package for _, package in packages if package.name == default][-1]
        fitting = []
        for folder, package in packages:
            if package.model.config_hash == newest.model.config_hash:
                fitting.append((folder, package))
            else:
                self._refused[package.name, package.version] = (
                    f"the board must have this network's bitstream, but has that of {default}; "
                    "serve it from another board, with its own overlay and as the default model"
                )
        return fitting

    async def _open_all(self, packages: list[Found]) -> list[LoadedModel]:
        """Engines for all of them, or for none."""
        tries = [self._open(folder, package) for folder, package in packages]
        opened = await asyncio.gather(*tries, return_exceptions=True)
        failed = [error for error in opened if isinstance(error, BaseException)]
        models = [model for model in opened if not isinstance(model, BaseException)]
        if failed:
            for model in models:
                await model.close(0)
            raise failed[0]
        return models

    async def _open_each(self, packages: list[Found]) -> None:
        """Load what can be loaded, several at a time; the log and the index say what cannot.

        What fails is tried once more, alone: it may have been another that took the process along.
        """
        turns = asyncio.Semaphore(os.cpu_count() or 1)
        failed: list[Found] = []

        async def open_one(found: Found, again: bool) -> None:
            key = (found[1].name, found[1].version)
            async with turns:
                try:
                    if not self._closing:
                        self._add(await self._open(*found))
                except EngineError as error:
                    if not again:
                        failed.append(found)
                        return
                    self._refused[key] = str(error)
                    _log.error("%s %s is not served: %s", *key, error)
            del self.models.changing[key]

        await asyncio.gather(*(open_one(found, again=False) for found in packages))
        for found in failed:
            await open_one(found, again=True)

    def _add(self, model: LoadedModel) -> None:
        package = model.package
        loaded = {**self.models.versions(package.name), package.version: model}
        self.models.replace(package.name, loaded)

    async def _open(self, folder: Path, package: Package) -> LoadedModel:
        """An engine for `package`, proven on its golden frames; raises `EngineError`."""
        lane = await self._room.open(self._engine, folder, package)
        try:
            await _prove(lane, package)
        except EngineError:
            await lane.close()
            raise
        statistics = ModelStatistics()
        scheduler = self._scheduler_for(package, lane, statistics)
        return LoadedModel(package, lane, scheduler, statistics)

    async def _retire(self, name: str, models: list[LoadedModel]) -> None:
        for model in models:
            key = (name, model.package.version)
            self.models.changing[key] = "UNLOADING"
            try:
                await model.close(self._drain_timeout_s)
            finally:
                del self.models.changing[key]

    def _entry(self, key: tuple[str, str], loaded: bool) -> IndexEntry:
        if key in self.models.changing:
            return IndexEntry(*key, self.models.changing[key])
        if loaded:
            return IndexEntry(*key, "READY", self._refused.get(key, ""))
        return IndexEntry(*key, "UNAVAILABLE", self._refused.get(key, "not loaded"))


def load_version(root: Path, name: str, version: str) -> Package:
    """The package `name` and `version` under `root`; raises `PackageError`."""
    folders = _package_folders(root)
    folder = root / name / version
    if folder not in folders:
        known = ", ".join(f"{path.parent.name} {path.name}" for path in folders)
        raise PackageError(root, f"must hold {name} {version}, but holds {known}")
    return _load_named(folder)


def _is(found: Found, name: str) -> bool:
    return found[1].name == name


def _task(package: Package) -> dict[str, Any]:
    """What a package's task says of input and output."""
    task = package.task.to_json()
    about = {
        key: task["output"][key] for key in ("joints", "unit", "classes") if key in task["output"]
    }
    if "channels" in task["input"]:
        about["channels"] = task["input"]["channels"]
    return {"kind": task["kind"], "input_shape": task["input"]["shape"], **about}


async def _prove(lane: Lane, package: Package) -> None:
    """Raise `EngineError` unless the engine computes the golden frames as the mirror does."""
    frames = golden_frames(package.model.config)
    expected = await asyncio.to_thread(lambda: Mirror(package.model).run(frames))
    outputs = (await lane.run(frames)).outputs
    wrong = np.argwhere(outputs != expected)
    if len(wrong):
        frame, output = wrong[0].tolist()
        raise EngineError(
            f"engine {lane.info.name} of {package.name} {package.version} must compute its golden "
            f"frames as the mirror does, but output {output} of frame {frame} must be "
            f"{expected[frame, output]} and is {outputs[frame, output]}"
        )


def _package_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        came = "is not one" if root.exists() else "does not exist"
        raise PackageError(
            root,
            f"must be a folder of packages, but {came}; name it with --models or EMAMBA_MODELS",
        )
    folders = find_packages(root)
    if not folders:
        raise PackageError(root, "must hold a package <name>/<version>/model.json, but holds none")
    return folders


def _load_named(folder: Path) -> Package:
    """The package in `folder`, which must have the package's name and version."""
    package = load_package(folder)
    must, says = (folder.parent.name, folder.name), (package.name, package.version)
    if must != says:
        raise PackageError(
            folder,
            f"must hold {' '.join(must)}, but its model.json says {' '.join(says)}; "
            f"move the package to {'/'.join(says)}",
        )
    return package
