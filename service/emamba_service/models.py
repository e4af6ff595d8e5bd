"""The loaded packages, each with the engine that computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emamba.engines import Engine
from emamba.fixed import IntegerModel
from emamba.package import Package, PackageError, find_packages, load_package
from emamba_service.errors import UnknownModelError, UnknownVersionError, shortened

__all__ = ["EngineFactory", "LoadedModel", "Models", "load_models", "load_version"]

EngineFactory = Callable[[str, IntegerModel], Engine]


@dataclass(frozen=True)
class LoadedModel:
    """A package and its open engine."""

    package: Package
    engine: Engine

    def summary(self) -> dict[str, Any]:
        """What `/v1/models` says of it."""
        package, model, status = self.package, self.package.model, self.engine.status
        task = package.task.to_json()
        return {
            "name": package.name,
            "version": package.version,
            "engine": self.engine.info.name,
            "engine_state": status.state,
            "engine_reason": status.reason,
            "package_sha256": package.sha256,
            "config": model.config.to_json(),
            "parameters": model.n_parameters,
            "int8_bytes": model.int8_bytes,
            "task": {
                "kind": task["kind"],
                "input_shape": task["input"]["shape"],
                "channels": task["input"]["channels"],
                "joints": task["output"]["joints"],
                "unit": task["output"]["unit"],
            },
            "accuracy": package.accuracy,
        }

    def state(self) -> dict[str, str]:
        """What `/health/ready` says of its engine."""
        status = self.engine.status
        return {
            "model": self.package.name,
            "version": self.package.version,
            "engine": self.engine.info.name,
            "state": status.state,
            "reason": status.reason,
        }


class Models:
    """Loaded models by name and version; the versions of a name are in ascending order."""

    def __init__(self, loaded: list[LoadedModel], default: str) -> None:
        self._by_name: dict[str, dict[str, LoadedModel]] = {}
        for model in loaded:
            versions = self._by_name.setdefault(model.package.name, {})
            versions[model.package.version] = model
        self._default = default

    def __iter__(self) -> Iterator[LoadedModel]:
        return (model for versions in self._by_name.values() for model in versions.values())

    def get(self, name: str | None = None, version: str | None = None) -> LoadedModel:
        """The model asked for: the default name, the latest version unless given.

        Raises `UnknownModelError` or `UnknownVersionError`.
        """
        name = self._default if name is None else name
        versions = self._by_name.get(name)
        if versions is None:
            known = ", ".join(self._by_name)
            raise UnknownModelError(f"model must be one of {known}, but is {shortened(name)!r}")
        if version is None:
            return next(reversed(versions.values()))
        if version not in versions:
            known = ", ".join(versions)
            raise UnknownVersionError(
                f"version of {name} must be one of {known}, but is {shortened(version)!r}"
            )
        return versions[version]

    def close(self) -> None:
        """Close every engine."""
        for model in self:
            model.engine.close()


def load_models(root: Path, engine: str, default: str, engine_factory: EngineFactory) -> Models:
    """Load every package under `root` and open `engine` for each.

    Raises `PackageError` where `root` is no folder or holds no package, for a package that is
    damaged or in another's folder, and where `default` is not among them; `EngineError` if the
    engine does not open for one of them, with those that did closed again.
    """
    packages = [_load_named(folder) for folder in _package_folders(root)]
    names = sorted({package.name for package in packages})
    if default not in names:
        raise PackageError(
            root, f"must hold the default model {default!r}, but holds {', '.join(names)}"
        )
    loaded: list[LoadedModel] = []
    with ExitStack() as opened:
        for package in packages:
            opening = engine_factory(engine, package.model)
            opened.callback(opening.close)
            loaded.append(LoadedModel(package, opening))
        opened.pop_all()
    return Models(loaded, default)


def load_version(root: Path, name: str, version: str) -> Package:
    """The package `name` and `version` under `root`; raises `PackageError`."""
    folders = _package_folders(root)
    folder = root / name / version
    if folder not in folders:
        known = ", ".join(f"{path.parent.name} {path.name}" for path in folders)
        raise PackageError(root, f"must hold {name} {version}, but holds {known}")
    return _load_named(folder)


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
