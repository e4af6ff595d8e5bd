"""The files the command line reads, and those it refuses."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emamba_client import InvalidInput
from emamba_client.inputs import Frames, read_frames

POINTS = np.arange(15.0).reshape(3, 5)
MAP = np.arange(320.0).reshape(8, 8, 5)
MAPS = np.stack([MAP, MAP + 1])
SHAPES = "points [n, 5] or features [8, 8, 5] or [n, 8, 8, 5]"


def read(path: Path) -> Frames:
    return read_frames(str(path), bytes)


def stdin(document: Any) -> Frames:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return read_frames("-", lambda: text)


def holds(frames: Frames, kind: str, values: Any) -> bool:
    return frames.kind == kind and np.array_equal(np.array(frames.values), values)


def refused(path: Path) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(path)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("array", "kind"), [(POINTS, "points"), (MAP, "features"), (MAPS, "frames")]
)
def test_numpy_files(tmp_path: Path, array: np.ndarray, kind: str) -> None:
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", anything=array)
    np.savez_compressed(tmp_path / "b.NPZ.npz", features=array, labels=np.zeros(3))
    assert holds(read(tmp_path / "a.npy"), kind, array)
    assert holds(read(tmp_path / "a.npz"), kind, array)
    assert holds(read(tmp_path / "b.NPZ.npz"), kind, array)


@pytest.mark.parametrize("shape", [(5,), (8, 8, 4), (2, 8, 8, 4), (1, 2, 8, 8, 5), ()])
def test_arrays_of_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    assert refused(tmp_path / "a.npy") == (
        f"FILE: the array must be {SHAPES}, not an array of shape {list(shape)}"
    )


def test_archives_must_name_their_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=MAP, two=MAP)
    np.savez(tmp_path / "b.npz")
    must = "FILE: the archive must hold one array named features or points, not "
    assert refused(tmp_path / "a.npz") == must + "one, two"
    assert refused(tmp_path / "b.npz") == must + "none"


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_pickles_are_refused(tmp_path: Path, suffix: str) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    raw, wrapped = tmp_path / f"raw{suffix}", tmp_path / f"wrapped{suffix}"
    raw.write_bytes(pickle.dumps(Bomb()))
    array = np.array([Bomb()], dtype=object)
    with wrapped.open("wb") as file:
        if suffix == ".npy":
            np.save(file, array, allow_pickle=True)
        else:
            np.savez(file, features=array)
    assert refused(raw).startswith("FILE cannot be read (")
    assert refused(wrapped) == (
        "FILE cannot be read (Object arrays cannot be loaded when allow_pickle=False)"
    )
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".npy":
        np.save(whole, MAPS)
    else:
        np.savez_compressed(whole, features=MAPS)
    data = whole.read_bytes()
    for length in {0, 1, 5, 20, 64, 100, 130, len(data) // 2, len(data) - 10, len(data) - 1}:
        cut = tmp_path / f"cut{suffix}"
        cut.write_bytes(data[:length])
        assert refused(cut).startswith("FILE cannot be read (")


def test_damaged_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, features=np.random.default_rng(0).normal(size=(2, 8, 8, 5)))
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 97):
        damaged = data.copy()
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        with contextlib.suppress(InvalidInput):
            read(path)


def test_huge_claims_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (1 << 45, 8, 8, 5)}
    np.lib.format.write_array_header_1_0(header, claim)
    (tmp_path / "a.npy").write_bytes(header.getvalue())
    assert refused(tmp_path / "a.npy").startswith("FILE cannot be read (")


def test_npy_under_the_name_of_an_archive(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, MAP)
    assert refused(tmp_path / "a.npz") == ("FILE cannot be read (it is not a whole .npz archive)")


@pytest.mark.parametrize(
    ("document", "kind", "values"),
    [
        ({"points": POINTS.tolist()}, "points", POINTS),
        ({"features": MAP.tolist()}, "features", MAP),
        ({"frames": [{"features": m.tolist()} for m in MAPS]}, "frames", MAPS),
        ({"frames": [{"points": POINTS.tolist()}]}, "frames", [POINTS]),
        ({"frames": []}, "frames", []),
        (POINTS.tolist(), "points", POINTS),
        (MAP.tolist(), "features", MAP),
        (MAPS.tolist(), "frames", MAPS),
        ([POINTS.tolist(), POINTS.tolist()], "frames", [POINTS, POINTS]),
    ],
)
def test_json(tmp_path: Path, document: Any, kind: str, values: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert holds(read(tmp_path / "a.json"), kind, values)
    assert holds(stdin(document), kind, values)


def test_json_frames_may_differ_in_length() -> None:
    frames = stdin([POINTS.tolist(), POINTS[:1].tolist()])
    assert frames.kind == "frames"
    assert [len(frame) for frame in frames.values] == [3, 1]


def test_json_names_a_model() -> None:
    frames = stdin({"points": POINTS.tolist(), "model": "mars", "version": "2"})
    assert (frames.model, frames.version) == ("mars", "2")


LISTS = "stdin: the JSON list must be points [n, 5], features [8, 8, 5] or a list of such frames"
OBJECTS = (
    "stdin: the JSON must be a list, or an object with one list named points, features or frames"
)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], LISTS),
        ([1, 2], LISTS),
        ([[[[[1]]]]], LISTS),
        ({}, OBJECTS),
        (3, OBJECTS),
        ("points", OBJECTS),
        ({"points": 3}, OBJECTS),
        ({"points": [], "frames": []}, OBJECTS),
        ({"frames": [[1]]}, "stdin: frame 0 must be an object with either points or features"),
        ({"points": [], "model": 3}, "stdin: the JSON's model must be a string"),
        (b"[" * 100000, "stdin: the JSON is nested too deeply"),
        (b"{", None),
        (b"", None),
        (b"\xff\xfe\xfa", None),
    ],
)
def test_json_refused(document: Any, sentence: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        stdin(document)
    if sentence is None:
        assert str(caught.value).startswith("stdin cannot be read (")
    else:
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    "header", ["", "x,y,z,doppler,intensity\n", "X, Y, Z, Doppler, Intensity\n"]
)
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_csv(tmp_path: Path, header: str, start: str) -> None:
    rows = "\n".join(",".join(map(str, row)) for row in POINTS)
    (tmp_path / "a.csv").write_text(f"{start}{header}{rows}\n\n", encoding="utf-8")
    assert holds(read(tmp_path / "a.csv"), "points", POINTS)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "FILE: the CSV must hold rows of x,y,z,doppler,intensity, but holds none"),
        (
            "x,y,z,doppler,intensity\n",
            "FILE: the CSV must hold rows of x,y,z,doppler,intensity, but holds none",
        ),
        (
            "1,2,3,4\n",
            "FILE: line 1 must hold 5 numbers (x,y,z,doppler,intensity), not 4",
        ),
        (
            "1,2,3,4,5\n1,2,three,4,5\n",
            "FILE: line 2 must hold numbers (could not convert string to float: 'three')",
        ),
        (
            "frame,x,y,z\n1,2,3,4,5\n",
            "FILE: the CSV's columns must be x,y,z,doppler,intensity in this order, but its "
            "header is frame,x,y,z",
        ),
        (
            "y,x,z,doppler,intensity\n",
            "FILE: the CSV's columns must be x,y,z,doppler,intensity in this order, but its "
            "header is y,x,z,doppler,intensity",
        ),
        (
            "a" * 100 + "\n",
            "FILE: the CSV's columns must be x,y,z,doppler,intensity in this order, but its "
            f"header is {'a' * 64}…",
        ),
        (
            "one,2,3,4,5\n",
            "FILE: line 1 must hold numbers (could not convert string to float: 'one')",
        ),
    ],
)
def test_csv_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert refused(tmp_path / "a.csv") == sentence


def test_binary_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\x00,\n")
    assert refused(tmp_path / "a.csv").startswith("FILE cannot be read (")
    (tmp_path / "a.csv").write_text('"' + "1" * 200_000 + '"')
    assert refused(tmp_path / "a.csv") == (
        "FILE cannot be read (field larger than field limit (131072))"
    )


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    assert refused(tmp_path / "a.npy") == "FILE does not exist"
    assert refused(tmp_path / "a.txt") == (
        "FILE must be one of .npy, .npz, .json, .csv, or - for JSON on stdin"
    )


@pytest.mark.parametrize("name", ["d", "d.npy", "d.npz", "d.json", "d.csv"])
def test_folders(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert refused(tmp_path / name) == "FILE must be a file, but is a folder; name a file in it"
