"""An overlay's folder: whole files of one design, or a sentence that says which is not."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emamba.export.interface import INTERFACE
from emamba.export.pipeline import TapError
from emamba.fixed import IntegerModel
from emamba.overlay import (
    BitstreamError,
    HandoffError,
    ManifestError,
    check_fit,
    emulated_overlay,
    open_overlay,
)
from emamba.overlay.bitstream import Bitstream, bitstream_bytes, read_bitstream
from emamba.overlay.manifest import sha256_of


@pytest.fixture
def folder(small_model: IntegerModel, tmp_path: Path) -> Path:
    return emulated_overlay(small_model, "fast", tmp_path / "overlay").path


def agree(folder: Path) -> None:
    """Make the manifest name the files as they are."""
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["files"] = {name: sha256_of(folder / name) for name in document["files"]}
    path.write_text(json.dumps(document))


def test_a_whole_overlay_opens(folder: Path, small_model: IntegerModel) -> None:
    overlay = open_overlay(folder)
    assert overlay.emulated
    assert overlay.head.part == INTERFACE.part
    assert (overlay.bitstream.name, overlay.handoff.name) == ("emamba.bit", "emamba.hwh")
    check_fit(overlay, small_model.config_hash)


def test_an_overlay_says_what_it_answers_with(
    folder: Path, small_model: IntegerModel, tmp_path: Path
) -> None:
    assert open_overlay(folder).tap is None
    assert emulated_overlay(small_model, "fast", tmp_path / "tapped", "u_0").tap == "u_0"
    with pytest.raises(TapError, match=r"^a tap must be one of residual_0, .* not 'output'$"):
        emulated_overlay(small_model, "fast", tmp_path / "none", "output")
    assert not (tmp_path / "none").exists()


def test_a_manifest_without_a_tap_is_of_outputs(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["tap"]
    path.write_text(json.dumps(document))
    assert open_overlay(folder).tap is None


def test_another_models_overlay_is_refused(folder: Path) -> None:
    overlay = open_overlay(folder)
    theirs = overlay.manifest["config_hash"][:16]
    with pytest.raises(ManifestError) as caught:
        check_fit(overlay, 64 * "a")
    assert str(caught.value) == (
        f"overlay and model must have one config hash, but the overlay {folder} has {theirs} and "
        "the model aaaaaaaaaaaaaaaa; choose the overlay built for this model, or build it"
    )


def test_another_interface_is_refused(folder: Path, small_model: IntegerModel) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"interface_version": 1}))
    with pytest.raises(ManifestError) as caught:
        check_fit(open_overlay(folder), small_model.config_hash)
    assert str(caught.value) == (
        f"{folder}: interface_version must be {INTERFACE.version}, not 1; "
        "build the overlay again with this version of emamba"
    )


def test_a_manifest_that_lacks_something_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["files"], document["preset"]
    path.write_text(json.dumps(document))
    with pytest.raises(ManifestError) as caught:
        open_overlay(folder)
    assert str(caught.value) == f"{path}: must have files, preset, but has not; build again"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        open_overlay(tmp_path / "none")
    assert str(caught.value) == (
        f"{tmp_path / 'none'}: must be the folder of an overlay, but is none; "
        "build one with make overlay, or name another with --overlay"
    )


def test_a_truncated_bitstream_is_refused(folder: Path) -> None:
    path = folder / "emamba.bit"
    path.write_bytes(path.read_bytes()[:-24])
    with pytest.raises(BitstreamError) as caught:
        open_overlay(folder)
    assert str(caught.value) == (
        f"{path}: must hold 64 bytes of configuration, but ends after 40; copy the overlay again"
    )


@pytest.mark.parametrize("raw", [b"", b"\x00\x09", b"PK\x03\x04 an archive"])
def test_what_is_no_bitstream_is_refused(folder: Path, raw: bytes) -> None:
    path = folder / "emamba.bit"
    path.write_bytes(raw)
    with pytest.raises(BitstreamError) as caught:
        open_overlay(folder)
    assert str(caught.value) == (
        f"{path}: must begin as a .bit file does, but does not; copy the overlay again, or build it"
    )


@pytest.mark.parametrize("name", ["emamba.bit", "emamba.hwh"])
def test_files_of_another_build_are_refused(folder: Path, name: str) -> None:
    path = folder / name
    raw = path.read_bytes()
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ManifestError) as caught:
        open_overlay(folder)
    assert str(caught.value) == (
        f"{path}: must be the file that manifest.json names, but is missing or another; "
        "copy bitstream, hand-off and manifest together"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("0xA0010000", "0xB0000000"), "has it at 0xb0000000; it is ano"),
        (lambda text: text.replace('"emamba_0"', '"other_0"'), "emamba_0 at 0xa0010000, but has n"),
        (lambda text: text.replace('MODTYPE="emamba_kernel"', 'MODTYPE="fir"'), "not fir; it is"),
        (lambda text: text.replace('NAME="weights_crc"', 'NAME="sum"'), "the hand-off has none; "),
        (lambda text: text[:200], "must be a hardware hand-off, but cannot be read: "),
    ],
)
def test_a_foreign_hand_off_is_refused(
    folder: Path, change: Callable[[str], str], says: str
) -> None:
    path = folder / "emamba.hwh"
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    agree(folder)
    with pytest.raises(HandoffError) as caught:
        open_overlay(folder)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@given(TEXTS, TEXTS, TEXTS, TEXTS, st.binary(max_size=200), st.integers(1, 200))
def test_heads_are_read_as_written(
    tmp_path_factory: pytest.TempPathFactory,
    design: str, part: str, date: str, time: str, data: bytes, lost: int,
) -> None:  # fmt: skip
    path = tmp_path_factory.getbasetemp() / "head.bit"
    raw = bitstream_bytes(design, part, date, time, data)
    path.write_bytes(raw)
    assert read_bitstream(path) == Bitstream(design, part, date, time, len(data))
    path.write_bytes(raw[:-lost] if lost < len(raw) else b"")
    with pytest.raises(BitstreamError):
        read_bitstream(path)


def test_the_length_is_the_datas(tmp_path: Path) -> None:
    raw = bitstream_bytes("d", "p", "2026/01/01", "00:00:00", b"12345678")
    assert raw.endswith(b"e" + struct.pack(">I", 8) + b"12345678")
