"""Model packages: a trained, quantised model on disk. The format is documented in docs/package.md.

A package is a folder `<name>/<version>/` with `model.json` (sizes, number formats, task,
provenance, accuracy, SHA-256 of the rest) and `weights.npz` (integers, no pickle). Loading checks
everything: a damaged or foreign file gets one line that names the file and the reason.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emamba.config import ConfigError, Fixed, ModelConfig
from emamba.edges import dequantise, quantise
from emamba.fixed import IntegerModel, IntegerTable, ModelError, check_bounds
from emamba.fixed.model import block_names, tensor_shapes
from emamba.fixed.tables import TABLES, TableKind
from emamba.tasks import Task, TaskError, task_from_json

__all__ = [
    "SCHEMA_VERSION",
    "Package",
    "PackageError",
    "decode",
    "encode",
    "find_packages",
    "load_package",
    "new_folder",
    "version_key",
    "write_package",
]

SCHEMA_VERSION = 1
MAX_FILE_BYTES = 64 * 1024 * 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_TABLE_PARTS = ("breakpoints", "slope", "intercept")
_KEYS = {
    "schema_version",
    "name",
    "version",
    "config",
    "config_hash",
    "formats",
    "task",
    "provenance",
    "accuracy",
    "files",
}


class PackageError(Exception):
    """A package that cannot be loaded; the message names the file and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@dataclass(frozen=True)
class Package:
    """A loaded, checked package.

    `sha256` identifies it: the SHA-256 of `model.json`, which holds the hashes of the rest.
    """

    name: str
    version: str
    model: IntegerModel
    task: Task
    provenance: dict[str, Any]
    accuracy: dict[str, Any]
    sha256: str

    def encode(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
        """The task's checked inputs, normalised and quantised: what an engine takes."""
        return encode(self.model, self.task, inputs)

    def decode(self, outputs: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
        """An engine's output integers as the task's answer."""
        return decode(self.model, self.task, outputs)


def encode(model: IntegerModel, task: Task, inputs: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """`Package.encode` of a model that is not packaged yet."""
    return quantise(task.encode(inputs), model.formats["input"]).astype(np.int8)


def decode(
    model: IntegerModel, task: Task, outputs: npt.NDArray[np.int16]
) -> npt.NDArray[np.float64]:
    """`Package.decode` of a model that is not packaged yet."""
    return task.decode(dequantise(outputs, model.formats["output"]))


def find_packages(root: Path) -> list[Path]:
    """Package folders `<root>/<name>/<version>`, sorted by name, then version."""
    found = [path.parent for path in root.glob("*/*/model.json")]
    return sorted(found, key=lambda path: (path.parent.name, version_key(path.name)))


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts version 10 after 9."""
    parts = re.findall(r"\d+|\D+", version)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def load_package(folder: Path) -> Package:
    """Read and check the package in `folder`; raises `PackageError`."""
    document = folder / "model.json"
    weights = folder / "weights.npz"
    raw = _read(document)
    header = _parse_header(document, raw)
    blob = _read(weights)
    digest = hashlib.sha256(blob).hexdigest()
    if header["files"] != {"weights.npz": digest}:
        raise PackageError(weights, f"SHA-256 must be the one in model.json, but is {digest[:16]}…")
    try:
        config = ModelConfig.from_json(header["config"])
        formats = _parse_formats(header["formats"])
        model = _build_model(config, formats, _read_arrays(weights, blob, config))
        check_bounds(model)
        task = task_from_json(header["task"], config)
    except (ConfigError, ModelError, TaskError) as error:
        raise PackageError(folder, str(error)) from error
    if header["config_hash"] != model.config_hash:
        raise PackageError(
            document, f"config_hash must be {model.config_hash[:16]}… for its config"
        )
    return Package(
        name=header["name"],
        version=header["version"],
        model=model,
        task=task,
        provenance=header["provenance"],
        accuracy=header["accuracy"],
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def new_folder(root: Path, name: str, version: str) -> Path:
    """`<root>/<name>/<version>`, not yet made; raises `PackageError` if that cannot be or is."""
    folder = root / name / version
    for what, value in (("name", name), ("version", version)):
        if not _NAME.fullmatch(value):
            raise PackageError(folder, f"{what} must match {_NAME.pattern}, but is {value!r}")
    if folder.exists():
        raise PackageError(folder, "must not exist yet; choose another version or remove it")
    return folder


def write_package(
    root: Path,
    name: str,
    version: str,
    model: IntegerModel,
    task: Task,
    provenance: dict[str, Any],
    accuracy: dict[str, Any],
) -> Path:
    """Write `<root>/<name>/<version>` and return it; the same input gives the same bytes.

    Raises `PackageError` if the folder exists or the name or version cannot be a folder's name,
    and `OverflowPossible` if an accumulator of the model could overflow.
    """
    folder = new_folder(root, name, version)
    check_bounds(model)
    blob = _archive(model)
    header = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "config": model.config.to_json(),
        "config_hash": model.config_hash,
        "formats": {key: {"width": f.width, "frac": f.frac} for key, f in model.formats.items()},
        "task": task.to_json(),
        "provenance": provenance,
        "accuracy": accuracy,
        "files": {"weights.npz": hashlib.sha256(blob).hexdigest()},
    }
    folder.mkdir(parents=True)
    (folder / "weights.npz").write_bytes(blob)
    (folder / "model.json").write_text(json.dumps(header, indent=1, allow_nan=False) + "\n")
    return folder


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PackageError(path, f"must be at most {MAX_FILE_BYTES} bytes, but has {size}")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PackageError(path, f"does not exist; {_hint(path.parent)}") from error
    except OSError as error:
        raise PackageError(path, f"cannot be read: {error.strerror}") from error


def _hint(folder: Path) -> str:
    versions = [found.parent.name for found in folder.glob("*/model.json")]
    if versions:
        return f"name a version below {folder.name}: {', '.join(sorted(versions, key=version_key))}"
    return "a package is a folder with model.json and weights.npz"


def _parse_header(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise PackageError(path, f"is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise PackageError(path, "must be a JSON object")
    if header.get("schema_version") != SCHEMA_VERSION:
        raise PackageError(
            path, f"schema_version must be {SCHEMA_VERSION}, not {header.get('schema_version')!r}"
        )
    if set(header) != _KEYS:
        missing, unknown = sorted(_KEYS - set(header)), sorted(set(header) - _KEYS)
        raise PackageError(path, f"keys are wrong: missing {missing}, unknown {unknown}")
    for key in ("name", "version"):
        if not isinstance(header[key], str) or not _NAME.fullmatch(header[key]):
            raise PackageError(path, f"{key} must match {_NAME.pattern}, not {header[key]!r}")
    for key in ("provenance", "accuracy", "files"):
        if not isinstance(header[key], dict):
            raise PackageError(path, f"{key} must be an object")
    return header


def _parse_formats(obj: Any) -> dict[str, Fixed]:
    if not isinstance(obj, dict):
        raise ModelError("formats must be an object")
    formats = {}
    for name, value in obj.items():
        if not isinstance(value, dict) or set(value) != {"width", "frac"}:
            raise ModelError(f"format {name} must have exactly the keys width and frac")
        if not all(type(number) is int for number in value.values()):
            raise ModelError(f"format {name} must hold integers")
        formats[name] = Fixed(value["width"], value["frac"])
    return formats


def _table_names(config: ModelConfig) -> dict[str, tuple[str, TableKind]]:
    """Every table's name, with its block's prefix and its kind."""
    return {at + kind: (at, kind) for at in block_names(config) for kind in TABLES}


def _read_arrays(path: Path, blob: bytes, config: ModelConfig) -> dict[str, npt.NDArray[Any]]:
    tables = [f"{name}.{part}" for name in _table_names(config) for part in _TABLE_PARTS]
    wanted = {*tensor_shapes(config), *tables}
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            if sum(info.file_size for info in archive.infolist()) > MAX_FILE_BYTES:
                raise PackageError(path, f"must unpack to at most {MAX_FILE_BYTES} bytes")
        with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
            if set(arrays.files) != wanted:
                odd = sorted(set(arrays.files) ^ wanted)[:5]
                raise PackageError(path, f"arrays must be those of the config; at odds: {odd}")
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError, KeyError) as error:
        raise PackageError(path, f"is not a readable .npz: {error}") from error


def _build_model(
    config: ModelConfig, formats: dict[str, Fixed], arrays: dict[str, npt.NDArray[Any]]
) -> IntegerModel:
    tables = {}
    for name, (at, kind) in _table_names(config).items():
        x, y = TABLES[kind]
        breakpoints, slope, intercept = (arrays[f"{name}.{part}"] for part in _TABLE_PARTS)
        if any(a.dtype != np.int32 or a.ndim != 1 for a in (breakpoints, slope, intercept)):
            raise ModelError(f"table {name} must hold one-dimensional int32 arrays")
        if not {at + x, at + y} <= set(formats):
            raise ModelError(f"formats must hold {at + x} and {at + y}")
        tables[name] = IntegerTable(
            kind, breakpoints, slope, intercept, formats[at + x], formats[at + y]
        )
    tensors = {name: arrays[name] for name in tensor_shapes(config)}
    return IntegerModel(config, formats, tensors, tables)


def _archive(model: IntegerModel) -> bytes:
    """The .npz with fixed time stamps, so that equal models give equal bytes."""
    arrays: dict[str, npt.NDArray[Any]] = dict(model.tensors)
    for name, table in model.tables.items():
        arrays |= {f"{name}.{part}": getattr(table, part) for part in _TABLE_PARTS}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()
