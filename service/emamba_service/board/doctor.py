"""What a board must have before the service can own it, and how to mend what is missing.

Nothing here touches the board: files are read, and the owner's lock is tried and given back. pynq
is not imported either, since it looks for devices while it is imported.
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from emamba.compiler import Compiler, NativeError
from emamba.export.image import image_words
from emamba.export.interface import INTERFACE
from emamba.export.timing import frame_words, output_words
from emamba.overlay import (
    BitstreamError,
    HandoffError,
    ManifestError,
    OverlayFolder,
    check_fit,
    open_overlay,
)
from emamba.package import Package, PackageError, find_packages, load_package
from emamba_service.settings import Settings, env_name
from emamba_service.telemetry.power import find_board, find_rails
from emamba_service.telemetry.temperature import find_temperatures, read_temperature_c

__all__ = ["Finding", "Surroundings", "examine"]

_PYTHONS = ((3, 10), (3, 12))
# Which pynq this service is tried with, and what each release forgets to say of its needs.
_VERSIONS = {"pynq": ((3, 0, 1), (5,)), "pycparser": ((0,), (3,)), "numpy": ((1, 26), (2,))}
_FPGA_MANAGER = "sys/class/fpga_manager/fpga0"
# XRT and other users of the contiguous memory need some too.
_CMA_SPARE_BYTES = 16 << 20
_DISK_BYTES = 200 << 20
_DEVICE_PART = INTERFACE.part.split("-")[0]
_UNIT = "etc/systemd/system/emamba.service"


@dataclass(frozen=True)
class Finding:
    """One thing looked at: what was found, and what to do unless it is ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pynq_folder() -> Path | None:
    spec = find_spec("pynq")
    return Path(spec.origin).parent if spec and spec.origin else None


@dataclass(frozen=True)
class Surroundings:
    """The machine, as the checks see it. `root` is where /sys, /proc, /dev and the rest lie."""

    root: Path
    environment: Mapping[str, str]
    euid: int
    machine: str
    python: tuple[int, int]
    version_of: Callable[[str], str | None]
    pynq_folder: Path | None
    find_compiler: Callable[[], Compiler]
    free_bytes: Callable[[Path], int]
    is_writable: Callable[[Path], bool]

    @classmethod
    def here(cls) -> Surroundings:
        """This machine."""
        return cls(
            root=Path("/"),
            environment=os.environ,
            euid=os.geteuid(),
            machine=platform.machine(),
            python=sys.version_info[:2],
            version_of=_version_of,
            pynq_folder=_pynq_folder(),
            find_compiler=Compiler.find,
            free_bytes=lambda path: shutil.disk_usage(path).free,
            is_writable=lambda path: os.access(path, os.W_OK),
        )

    def text(self, path: str) -> str | None:
        """The stripped text of a file under `root`; None where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace").strip("\0\n ")
        except OSError:
            return None

    def any(self, pattern: str) -> bool:
        """Whether something under `root` matches."""
        return next(self.root.glob(pattern), None) is not None


def examine(around: Surroundings, settings: Settings) -> list[Finding]:
    """Every check, in the order in which it pays to mend what they find."""
    return [
        finding
        for check in (
            *(_machine, _python, _packages, _environment, _root),
            *(_fpga_manager, _firmware, _xrt, _interrupts),
            *(_overlay, _models, _cma),
            *(_metadata, _owner, _compiler, _disk, _unit),
            *(_rails, _temperatures),
        )
        for finding in check(around, settings)
    ]


def _machine(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    if around.machine != "aarch64":
        yield Finding(
            "machine",
            "fail",
            f"must be aarch64, but is {around.machine}: this is no board",
            "run this on the ZCU102; --engine emulator needs none",
        )
        return
    names = (around.text("sys/firmware/devicetree/base/compatible") or "").split("\0")
    if any("zcu102" in name for name in names):
        yield Finding("machine", "ok", f"aarch64, {names[0]}")
    else:
        yield Finding(
            "machine",
            "fail",
            "must be a ZCU102, but the device tree says " + (names[0] or "nothing"),
            f"the overlay is for part {INTERFACE.part}; boot an image made for the ZCU102",
        )


def _python(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    came = ".".join(map(str, around.python))
    low, high = _PYTHONS
    if low <= around.python <= high:
        yield Finding("python", "ok", came)
    else:
        yield Finding(
            "python",
            "fail",
            f"must be 3.{low[1]} to 3.{high[1]}, for which pynq has what it needs, but is {came}",
            "install into an environment made by the image's own Python (deploy/board/install.sh)",
        )


def _packages(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    if around.pynq_folder is None:
        yield Finding(
            "pynq",
            "fail",
            "must be importable, but is not",
            "use the environment that deploy/board/install.sh makes, which looks into PYNQ's; "
            "without a PYNQ image: pip install 'emamba-service[board]'",
        )
        return
    for name, (low, high) in _VERSIONS.items():
        came = around.version_of(name)
        if came is not None and low <= _numbers(came) < high:
            yield Finding(name, "ok", came)
            continue
        bounds = f"{_dotted(low)} or later, before {_dotted(high)}"
        yield Finding(
            name,
            "fail",
            f"must be {bounds}, but is {came or 'missing'}",
            f"{_MENDS.get(name, 'run deploy/board/install.sh again')}; elsewhere: pip install "
            f"'{name}>={_dotted(low)},<{_dotted(high)}'",
        )


_MENDS = {"pynq": "boot an image of PYNQ 3.0.1 to 4"}


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _environment(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    value = around.environment.get("XILINX_XRT")
    if value:
        yield Finding("XILINX_XRT", "ok", value)
    else:
        yield Finding(
            "XILINX_XRT",
            "fail",
            "must be set before pynq is imported, but is not: pynq would find no devices",
            "export XILINX_XRT=/usr; sudo drops it, so: sudo XILINX_XRT=/usr emamba-service ...",
        )


def _root(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    if around.euid == 0:
        yield Finding("user", "ok", "root")
    else:
        yield Finding(
            "user",
            "fail",
            f"must be root, since pynq maps /dev/mem, but is user {around.euid}",
            "start with sudo, or by the systemd unit",
        )


def _fpga_manager(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    state, flags = (around.text(f"{_FPGA_MANAGER}/{name}") for name in ("state", "flags"))
    if state is None or flags is None:
        yield Finding(
            "fpga manager",
            "fail",
            f"/{_FPGA_MANAGER} must have state and flags, but has not",
            "boot AMD's kernel: others load bitstreams by device tree overlays alone, which pynq "
            "does not use",
        )
    elif "error" in state:
        yield Finding(
            "fpga manager",
            "fail",
            f"must be operating or unknown, but says: {state}",
            "the last bitstream was refused: copy the overlay again, then reboot the board",
        )
    else:
        yield Finding("fpga manager", "ok", state)


def _firmware(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    if around.is_writable(around.root / "lib/firmware"):
        yield Finding("firmware", "ok", "/lib/firmware")
    else:
        yield Finding(
            "firmware",
            "fail",
            "/lib/firmware must be a folder that can be written, but is not: the FPGA manager "
            "takes bitstreams from it",
            "mkdir -p /lib/firmware; on a read-only image: mount -o remount,rw /",
        )


def _xrt(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    missing = [name for name, patterns in _XRT.items() if not any(map(around.any, patterns))]
    if not missing:
        yield Finding("XRT", "ok", "library, xclbinutil and zocl's device are there")
    else:
        yield Finding(
            "XRT",
            "fail",
            f"must be whole, but has no {', no '.join(missing)}: pynq allocates through it",
            "install the XRT of the image's release, and enable zocl in the device tree",
        )
    newest = (around.version_of("pynq") or "").startswith("4")
    if newest and not around.any("proc/device-tree/chosen/pynq_board"):
        yield Finding(
            "device tree",
            "fail",
            "must have chosen/pynq_board, by which pynq 4 knows that it is on a board, but has not",
            "build the image by PYNQ's own recipe, or add the node to the device tree",
        )


_XRT = {
    "libxrt_core": ("usr/lib/libxrt_core.so*", "usr/lib/aarch64-linux-gnu/libxrt_core.so*"),
    "xclbinutil": ("usr/bin/xclbinutil",),
    "/dev/dri/renderD*": ("dev/dri/renderD*",),
}


def _interrupts(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    paths = sorted((around.root / "sys/class/uio").glob("uio*/name"))
    names = [around.text(str(path.relative_to(around.root))) or "?" for path in paths]
    if "fabric" in names:
        yield Finding("interrupts", "ok", f"UIO devices {', '.join(names)}")
    else:
        yield Finding(
            "interrupts",
            "warn",
            "no UIO device is called fabric: the service polls, which costs processor time",
            "add PYNQ's fabric node to the device tree and uio_pdrv_genirq.of_id=generic-uio to "
            "the kernel's arguments",
        )


def _overlay(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    try:
        overlay = _open(settings)
    except (BitstreamError, HandoffError, ManifestError) as error:
        yield _refusal("overlay", error)
        return
    part = overlay.head.part
    if overlay.emulated:
        yield Finding(
            "overlay",
            "fail",
            f"{overlay.path} must hold a bitstream, but is an emulated board's",
            "build one with make overlay, and copy its folder",
        )
    elif not part.startswith(_DEVICE_PART):
        yield Finding(
            "overlay",
            "fail",
            f"{overlay.bitstream} must be for {_DEVICE_PART}, but is for {part}",
            "build it for the ZCU102 with make overlay",
        )
    else:
        yield Finding(
            "overlay",
            "ok",
            f"{overlay.path}: whole, for {part}, interface {overlay.manifest['interface_version']}",
        )


def _refusal(name: str, error: Exception) -> Finding:
    """A failure in the words of `error`, whose last part says what to do."""
    found, separator, mend = str(error).rpartition("; ")
    return (
        Finding(name, "fail", found, mend)
        if separator
        else Finding(name, "fail", mend, "copy its folder again")
    )


def _open(settings: Settings) -> OverlayFolder:
    if settings.overlay is None:
        raise ManifestError("an overlay must be named, but is not; name its folder with --overlay")
    return open_overlay(settings.overlay)


def _models(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    folders = find_packages(settings.models)
    if not folders:
        yield Finding(
            "models",
            "fail",
            f"{settings.models} must hold a package <name>/<version>/model.json, but holds none",
            "copy models/, or name another folder with --models",
        )
    try:
        overlay = _open(settings)
    except (BitstreamError, HandoffError, ManifestError):
        overlay = None
    for folder in folders:
        yield _model(folder, overlay)


def _model(folder: Path, overlay: OverlayFolder | None) -> Finding:
    name = f"model {folder.parent.name} {folder.name}"
    try:
        model = load_package(folder).model
        if overlay is None:
            return Finding(
                name,
                "warn",
                "loads, but there is no whole overlay to compare its config hash with",
                "mend the overlay first",
            )
        check_fit(overlay, model.config_hash)
    except (PackageError, ManifestError) as error:
        return _refusal(name, error)
    return Finding(name, "ok", f"fits the overlay, config hash {model.config_hash[:16]}")


def _cma(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    meminfo = around.text("proc/meminfo") or ""
    kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", meminfo))
    total, free = (int(kilobytes.get(name, "0")) << 10 for name in ("CmaTotal", "CmaFree"))
    needs = _cma_bytes(settings) + _CMA_SPARE_BYTES
    found = f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free, {needs / 2**20:.1f} MiB needed"
    if free >= needs:
        yield Finding("CMA", "ok", found)
    elif total >= needs:
        yield Finding(
            "CMA",
            "fail",
            f"contiguous memory must suffice for the DMA's buffers, but has {found}",
            "stop what else holds buffers (Jupyter kernels keep theirs until they are shut down)",
        )
    else:
        yield Finding(
            "CMA",
            "fail",
            f"contiguous memory must suffice for the DMA's buffers, but has {found}",
            f"add cma=256M to the kernel's arguments, or lower {env_name('transfer_frames')}",
        )


def _cma_bytes(settings: Settings) -> int:
    """What the driver allocates: two slots and a weights image for each config hash."""
    configs = {package.model.config_hash: package.model.config for package in _loadable(settings)}
    return sum(
        8 * (2 * settings.transfer_frames * (frame_words(c) + output_words(c)) + image_words(c))
        for c in configs.values()
    )


def _loadable(settings: Settings) -> Iterator[Package]:
    for folder in find_packages(settings.models):
        try:
            yield load_package(folder)
        except PackageError:
            continue


def _metadata(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    if around.pynq_folder is None:
        return
    folder = around.pynq_folder / "pl_server"
    kept = [path.name for path in folder.glob("_current_metadata.pkl")]
    if not around.is_writable(folder):
        yield Finding(
            "metadata",
            "fail",
            f"{folder} must be a folder that can be written, but is not: pynq keeps the last "
            "overlay's metadata there, and an old one must be removed",
            "start as root; under systemd name the folder in ReadWritePaths (install.sh does)",
        )
    else:
        remembered = "the last overlay's is forgotten at the start" if kept else "nothing is kept"
        yield Finding("metadata", "ok", f"{folder}: {remembered}")


def _owner(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    path = settings.board_lock
    if not path.parent.is_dir():
        yield Finding(
            "owner",
            "fail",
            f"{path.parent} must be a folder, for the lock of the board's owner, but is none",
            f"name another file with {env_name('board_lock')}",
        )
        return
    owner = _holder(path)
    if owner is None:
        yield Finding("owner", "ok", f"nobody holds {path}")
    else:
        yield Finding(
            "owner",
            "warn",
            f"process {owner} holds the board ({path})",
            "before starting another by hand: systemctl stop emamba, or end that process",
        )


def _holder(path: Path) -> str | None:
    """The PID in a lock that is held; None where it is free."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(32).strip() or "unknown"
    except OSError:
        return None
    return None


def _compiler(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding("compiler", "ok", around.find_compiler().version)
    except NativeError as error:
        yield Finding(
            "compiler",
            "warn",
            f"guard and fallback are then the mirror, tens of times slower: {error}",
            "apt-get install g++, or copy its packages to the board",
        )


def _disk(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    free = around.free_bytes(around.root)
    found = f"{free / 2**20:.0f} MiB free"
    if free >= _DISK_BYTES:
        yield Finding("disk", "ok", found)
    else:
        yield Finding(
            "disk",
            "warn",
            f"must have {_DISK_BYTES >> 20} MiB free, but has {found}",
            "grow the SD card's partition, or remove packages and logs",
        )


def _unit(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    text = around.text(_UNIT)
    if text is None:
        yield Finding(
            "systemd unit",
            "warn",
            f"/{_UNIT} is not there: the service does not start with the board",
            "run deploy/board/install.sh, then systemctl enable --now emamba",
        )
        return
    values = dict(_assignments(text))
    file = next(iter(re.findall(r"^EnvironmentFile=-?(.+)$", text, re.MULTILINE)), "")
    listed = around.text(file.lstrip("/")) if file else ""
    if listed is None:
        yield Finding(
            "systemd unit",
            "fail",
            f"its EnvironmentFile {file} must be readable, but is not",
            "run deploy/board/install.sh again",
        )
        return
    values |= dict(re.findall(r"^([A-Z_]+)=(.*)$", listed, re.MULTILINE))
    known = {env_name(name) for name in Settings.model_fields} | {"EMAMBA_CACHE"}
    unknown = sorted(name for name in values if name.startswith("EMAMBA_") and name not in known)
    if not values.get("XILINX_XRT"):
        yield Finding(
            "systemd unit",
            "fail",
            "must set XILINX_XRT, but does not: pynq would find no devices",
            f"add Environment=XILINX_XRT=/usr to /{_UNIT}, then systemctl daemon-reload",
        )
    elif unknown:
        yield Finding(
            "systemd unit",
            "fail",
            f"must name settings only, but names {', '.join(unknown)}",
            f"see docs/service.md for their names, and correct {file or _UNIT}",
        )
    else:
        yield Finding("systemd unit", "ok", f"/{_UNIT}, settings in {file or 'itself'}")


def _assignments(unit: str) -> Iterator[tuple[str, str]]:
    """(name, value) of a unit's `Environment=` lines."""
    for line in re.findall(r"^Environment=(.+)$", unit, re.MULTILINE):
        for word in shlex.split(line):
            name, _, value = word.partition("=")
            yield name, value


def _rails(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    sysfs = around.root / "sys"
    board = find_board(sysfs)
    found = find_rails(sysfs, board) if board else {}
    if board and len(found) == len(board.rails):
        yield Finding("power rails", "ok", f"all {len(found)} have a sensor")
        return
    known = f"{len(found)} of {len(board.rails)}" if board else "none"
    yield Finding(
        "power rails",
        "warn",
        f"{known} found: power is not measured whole",
        "enable CONFIG_SENSORS_INA2XX or CONFIG_INA2XX_ADC with CONFIG_SENSORS_IIO_HWMON in the "
        "kernel",
    )


def _temperatures(around: Surroundings, settings: Settings) -> Iterator[Finding]:
    read = {}
    for name, stem in find_temperatures(around.root / "sys").items():
        try:
            read[name] = f"{name} {read_temperature_c(stem):.0f} degC"
        except (OSError, ValueError):
            continue
    if read:
        yield Finding("temperatures", "ok", ", ".join(read.values()))
    else:
        yield Finding(
            "temperatures",
            "warn",
            "no sensor of the chip answers",
            "enable CONFIG_XILINX_AMS in the kernel",
        )
