"""Packages survive the trip to disk exactly; damaged and foreign ones are refused by name."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba.fixed import Mirror
from emamba.package import (
    PackageError,
    find_packages,
    load_package,
    version_key,
    write_package,
)
from random_models import MARS_CONFIG, pose_task, random_model


def edit_header(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.json"
    header = json.loads(path.read_text())
    change(header)
    path.write_text(json.dumps(header))


def replace_weights(folder: Path, blob: bytes) -> None:
    """New weights with their right hash, so that the content itself is judged."""
    (folder / "weights.npz").write_bytes(blob)
    digest = hashlib.sha256(blob).hexdigest()
    edit_header(folder, lambda h: h["files"].update({"weights.npz": digest}))


def edit_arrays(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(folder / "weights.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    change(arrays)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    replace_weights(folder, buffer.getvalue())


def test_round_trip_is_exact(package_folder: Path) -> None:
    package = load_package(package_folder)
    model = random_model(MARS_CONFIG, 0)
    assert (package.name, package.version, package.provenance) == ("mars", "1", {"seed": 0})
    assert package.model.formats == model.formats
    assert package.task == pose_task()
    for name, tensor in model.tensors.items():
        np.testing.assert_array_equal(package.model.tensors[name], tensor)
    batch = np.random.default_rng(0).integers(-127, 128, (9, 8, 8, 5)).astype(np.int8)
    np.testing.assert_array_equal(Mirror(package.model).run(batch), Mirror(model).run(batch))


def test_same_model_gives_same_bytes(package_folder: Path, tmp_path: Path) -> None:
    model = random_model(MARS_CONFIG, 0)
    again = write_package(tmp_path / "b", "mars", "1", model, pose_task(), {"seed": 0}, {})
    for name in ("model.json", "weights.npz"):
        assert (again / name).read_bytes() == (package_folder / name).read_bytes()
    assert load_package(again).sha256 == load_package(package_folder).sha256


def test_sizes_are_counted(package_folder: Path) -> None:
    model = load_package(package_folder).model
    assert (model.n_parameters, model.int8_bytes) == (17229, 17229)


@pytest.mark.parametrize(
    ("name", "version"), [("../x", "1"), ("Mars", "1"), ("mars", ""), ("", "1")]
)
def test_names_that_are_no_folder_are_refused(tmp_path: Path, name: str, version: str) -> None:
    with pytest.raises(PackageError, match="must match"):
        write_package(tmp_path, name, version, random_model(MARS_CONFIG, 0), pose_task(), {}, {})


def test_an_existing_version_is_never_overwritten(package_folder: Path) -> None:
    model = random_model(MARS_CONFIG, 1)
    with pytest.raises(PackageError, match="must not exist yet; choose another version"):
        write_package(package_folder.parents[1], "mars", "1", model, pose_task(), {}, {})


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda header: header.pop(key)


def _put(*path: str, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(header: dict[str, Any]) -> None:
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = value

    return change


HEADER_FAULTS = [
    (_put("schema_version", value=2), "schema_version must be 1, not 2"),
    (_drop("schema_version"), "schema_version must be 1, not None"),
    (_drop("task"), r"missing \['task'\], unknown \[\]"),
    (_put("extra", value=1), r"missing \[\], unknown \['extra'\]"),
    (_put("name", value="../evil"), "name must match"),
    (_put("version", value=1), "version must match"),
    (_put("config", "d_model", value=21), "must have shape"),
    (_put("config", "d_model", value=-1), "d_model must be an integer >= 1, not -1"),
    (_put("config", value=[]), "config must be a JSON object"),
    (_put("config", "n_layer", value=3), "at odds"),
    (_put("config_hash", value="0" * 64), "config_hash must be"),
    (_put("formats", "residual", "width", value=8), "format residual must be 16 bits wide, not 8"),
    (_put("formats", "residual", "frac", value=40), "residual must not have more fractional bits"),
    (_put("formats", "residual", value=3), "format residual must have exactly the keys"),
    (_put("formats", "residual", "frac", value=1.5), "format residual must hold integers"),
    (_put("formats", "head.hidden", "frac", value=48), "but can need"),
    (_put("formats", "blocks.0.dA", "frac", value=6), "blocks.0.dA must have frac 7, not 6"),
    (_put("formats", "blocks.0.h", "frac", value=1), r"must have frac h \+ 7 = 8"),
    (lambda h: h["formats"].pop("blocks.0.u"), r"missing \['blocks.0.u'\]"),
    (lambda h: h["formats"].pop("blocks.0.z"), "must hold blocks.0.z"),
    (_put("formats", value=None), "formats must be an object"),
    (
        _put("task", "kind", value="chess"),
        r"task kind must be one of \['image-classes', 'mars-pose'\], not 'chess'",
    ),
    (_put("task", value=3), "not None"),
    (_put("task", "output", "scale", value=[1.0]), "output.scale must be 57 finite numbers"),
    (_put("task", "input", "scale", value=[0.0] * 5), "input.scale must be positive"),
    (_put("task", "output", "joints", value=["Nose"]), "the 19 MARS joints in order"),
    (lambda h: h["task"].pop("input"), "lacks or misstates 'input'"),
    (_put("accuracy", value=[]), "accuracy must be an object"),
    (_put("files", value={}), "SHA-256 must be the one in model.json"),
]


@pytest.mark.parametrize(("change", "reason"), HEADER_FAULTS)
def test_a_wrong_header_is_refused(
    package_folder: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    edit_header(package_folder, change)
    with pytest.raises(PackageError, match=reason) as caught:
        load_package(package_folder)
    assert str(package_folder) in str(caught.value)
    assert "\n" not in str(caught.value)


WEIGHT_FAULTS = [
    (lambda a: a.pop("head.fc1.bias"), r"at odds: \['head.fc1.bias'\]"),
    (lambda a: a.update(extra=np.zeros(1)), r"at odds: \['extra'\]"),
    (
        lambda a: a.update({"head.fc1.bias": np.zeros(24)}),
        "head.fc1.bias must be int8, not float64",
    ),
    (lambda a: a.update({"head.fc1.bias": np.zeros(23, np.int8)}), r"must have shape \(24,\)"),
    (lambda a: a["head.fc1.bias"].fill(-128), "must lie in -127..127, but holds -128"),
    (lambda a: a["blocks.1.A"].fill(1), "blocks.1.A must be <= 0"),
    (lambda a: a["blocks.0.silu.breakpoints"].fill(200), "table blocks.0.silu: every breakpoint"),
    (
        lambda a: a.update({"blocks.0.exp.slope": np.zeros(3, np.int32)}),
        "table blocks.0.exp: needs",
    ),
    (lambda a: a.update({"blocks.0.exp.slope": np.zeros(3)}), "one-dimensional int32 arrays"),
    (lambda a: a.update({"head.fc1.bias": np.array([{}] * 24)}), "Object arrays cannot be loaded"),
]


@pytest.mark.parametrize(("change", "reason"), WEIGHT_FAULTS)
def test_wrong_weights_are_refused(
    package_folder: Path, change: Callable[[dict[str, np.ndarray]], object], reason: str
) -> None:
    edit_arrays(package_folder, change)
    with pytest.raises(PackageError, match=reason):
        load_package(package_folder)


def _bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("head.fc1.bias.npy", bytes(65 * 1024 * 1024))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (b"", "is not a readable .npz"),
        (b"PK\x03\x04 not a zip", "is not a readable .npz"),
        (b"\x80\x04\x95", "is not a readable .npz"),
        (_bomb(), "must unpack to at most"),
    ],
)
def test_foreign_weights_are_refused(package_folder: Path, blob: bytes, reason: str) -> None:
    replace_weights(package_folder, blob)
    with pytest.raises(PackageError, match=reason):
        load_package(package_folder)


def test_one_flipped_bit_is_found(package_folder: Path) -> None:
    path = package_folder / "weights.npz"
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(bytes(blob))
    with pytest.raises(PackageError, match=r"weights.npz: SHA-256 must be the one in model.json"):
        load_package(package_folder)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\udcff"])
def test_a_header_that_is_not_json_is_refused(package_folder: Path, text: str) -> None:
    (package_folder / "model.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(PackageError, match=r"model.json: is not JSON"):
        load_package(package_folder)


def test_missing_and_oversized_files_are_named(package_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PackageError, match=r"nowhere/model.json: does not exist; a package is a folder"
    ):
        load_package(tmp_path / "nowhere")
    (package_folder / "weights.npz").unlink()
    with pytest.raises(PackageError, match=r"weights.npz: does not exist"):
        load_package(package_folder)
    with (package_folder / "weights.npz").open("wb") as file:
        file.truncate(65 * 1024 * 1024)
    with pytest.raises(PackageError, match=r"weights.npz: must be at most"):
        load_package(package_folder)


def test_a_model_without_its_version_gets_a_hint(package_folder: Path) -> None:
    with pytest.raises(PackageError, match=r"does not exist; name a version below mars: 1"):
        load_package(package_folder.parent)
    with pytest.raises(PackageError, match=r"weights.npz/model.json: does not exist"):
        load_package(package_folder / "weights.npz")


def test_packages_are_found_in_version_order(tmp_path: Path) -> None:
    for version in ("10", "9", "1"):
        folder = tmp_path / "mars" / version
        folder.mkdir(parents=True)
        (folder / "model.json").touch()
    assert [path.name for path in find_packages(tmp_path)] == ["1", "9", "10"]
    assert sorted(["1.10", "1.9", "1.9-rc"], key=version_key) == ["1.9", "1.9-rc", "1.10"]
