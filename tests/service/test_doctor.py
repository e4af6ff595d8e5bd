"""The doctor on made-up boards: everything right, each failure once, and a laptop."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from emamba.compiler import Compiler, NativeError
from emamba.overlay import emulated_overlay
from emamba.overlay.bitstream import bitstream_bytes
from emamba.overlay.manifest import sha256_of
from emamba.package import load_package
from emamba_service.board.doctor import Finding, Surroundings, examine
from emamba_service.cli import cli
from emamba_service.settings import Settings
from emamba_service.telemetry.rails import ZCU102

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "one_model"
MIB = 2**20
VERSIONS = {"pynq": "3.1.2", "pycparser": "2.23", "numpy": "1.26.4"}
FILES = {
    "sys/firmware/devicetree/base/compatible": "\0".join(
        ("xlnx,zynqmp-zcu102-rev1.0", "xlnx,zynqmp-zcu102", "xlnx,zynqmp", "")
    ),
    "sys/class/fpga_manager/fpga0/state": "operating\n",
    "sys/class/fpga_manager/fpga0/flags": "0\n",
    "sys/class/uio/uio0/name": "fabric\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_raw": "40000\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_offset": "-36058\n",
    "sys/bus/iio/devices/iio:device0/in_temp0_ps_temp_scale": "7.771514892\n",
    "proc/meminfo": "MemTotal: 4000000 kB\nCmaTotal:  262144 kB\nCmaFree:  200000 kB\n",
    "proc/device-tree/chosen/pynq_board": "ZCU102\0",
    "usr/lib/libxrt_core.so.2": "",
    "usr/bin/xclbinutil": "",
    "dev/dri/renderD128": "",
    "lib/firmware/anything.bin": "",
    "etc/emamba/emamba.env": (ROOT / "deploy/board/emamba.env").read_text(),
    "etc/systemd/system/emamba.service": (ROOT / "deploy/board/emamba.service").read_text(),
    **{
        f"sys/class/hwmon/hwmon{i}/{name}": text
        for i, rail in enumerate(ZCU102.rails)
        for name, text in (("name", f"ina226_{rail.designator}\n"), ("power1_input", "1000\n"))
    },
}


@dataclass
class Patient:
    """A made-up board, to be made ill."""

    root: Path
    around: Surroundings
    settings: Settings

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        file = self.root / path
        shutil.rmtree(file) if file.is_dir() else file.unlink()

    def change(self, **fields: Any) -> None:
        self.around = replace(self.around, **fields)

    def set(self, **fields: Any) -> None:
        self.settings = Settings(**(self.settings.model_dump() | fields))

    def ill(self) -> list[Finding]:
        return [f for f in examine(self.around, self.settings) if f.state != "ok"]


def real_overlay(folder: Path, part: str = "xczu9eg-ffvb1156-2-e") -> Path:
    """The files of a built overlay, as far as they can be made up."""
    emulated_overlay(load_package(MODELS / "mars" / "1").model, "fast", folder)
    bit = folder / "emamba.bit"
    bit.write_bytes(bitstream_bytes("emamba", part, "2026/01/01", "00:00:00", bytes(64)))
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["emulated"]
    manifest["files"]["emamba.bit"] = sha256_of(bit)
    file.write_text(json.dumps(manifest))
    return folder


def compiler() -> Compiler:
    return Compiler("c++", "c++ 11.4.0", ())


def no_compiler() -> Compiler:
    raise NativeError("needs a C++17 compiler (c++); install g++, or point CXX at one")


@pytest.fixture(scope="module")
def overlay(tmp_path_factory) -> Path:
    return real_overlay(tmp_path_factory.mktemp("overlay"))


@pytest.fixture
def patient(tmp_path, overlay) -> Patient:
    root = tmp_path / "root"
    pynq = root / "usr/local/share/pynq-venv/pynq"
    (pynq / "pl_server").mkdir(parents=True)
    (root / "run/lock").mkdir(parents=True)
    for path, text in FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    around = Surroundings(
        root=root,
        environment={"XILINX_XRT": "/usr"},
        euid=0,
        machine="aarch64",
        python=(3, 10),
        version_of=VERSIONS.get,
        pynq_folder=pynq,
        find_compiler=compiler,
        free_bytes=lambda _: 900 * MIB,
        is_writable=lambda path: path.is_dir(),
    )
    settings = Settings(
        models=MODELS,
        overlay=Path(shutil.copytree(overlay, tmp_path / "overlay")),
        board_lock=root / "run/lock/board.lock",
    )
    return Patient(root, around, settings)


def test_nothing_is_wrong_with_a_whole_board(patient):
    assert patient.ill() == []
    found = {finding.name: finding.found for finding in examine(patient.around, patient.settings)}
    assert found["machine"] == "aarch64, xlnx,zynqmp-zcu102-rev1.0"
    assert found["CMA"] == "195 of 256 MiB free, 16.2 MiB needed"
    assert found["model mars 1"].startswith("fits the overlay, config hash ")
    assert found["power rails"] == "all 18 have a sensor"
    assert found["temperatures"] == "ps 31 degC"


Harm = Callable[[Patient], None]
UNIT = "etc/systemd/system/emamba.service"

FAILURES: list[tuple[str, Harm, str, str, str]] = [
    (
        "new python",
        lambda p: p.change(python=(3, 13)),
        "python",
        "must be 3.10 to 3.12, for which pynq has what it needs, but is 3.13",
        "install into an environment made by the image's own Python (deploy/board/install.sh)",
    ),
    (
        "old pynq",
        lambda p: p.change(version_of=(VERSIONS | {"pynq": "2.7.0"}).get),
        "pynq",
        "must be 3.0.1 or later, before 5, but is 2.7.0",
        "boot an image of PYNQ 3.0.1 to 4; elsewhere: pip install 'pynq>=3.0.1,<5'",
    ),
    (
        "new pycparser",
        lambda p: p.change(version_of=(VERSIONS | {"pycparser": "3.0"}).get),
        "pycparser",
        "must be 0 or later, before 3, but is 3.0",
        "run deploy/board/install.sh again; elsewhere: pip install 'pycparser>=0,<3'",
    ),
    (
        "no numpy",
        lambda p: p.change(version_of={k: v for k, v in VERSIONS.items() if k != "numpy"}.get),
        "numpy",
        "must be 1.26 or later, before 2, but is missing",
        "run deploy/board/install.sh again; elsewhere: pip install 'numpy>=1.26,<2'",
    ),
    (
        "no XILINX_XRT",
        lambda p: p.change(environment={}),
        "XILINX_XRT",
        "must be set before pynq is imported, but is not: pynq would find no devices",
        "export XILINX_XRT=/usr; sudo drops it, so: sudo XILINX_XRT=/usr emamba-service ...",
    ),
    (
        "not root",
        lambda p: p.change(euid=1000),
        "user",
        "must be root, since pynq maps /dev/mem, but is user 1000",
        "start with sudo, or by the systemd unit",
    ),
    (
        "mainline kernel",
        lambda p: p.remove("sys/class/fpga_manager/fpga0/flags"),
        "fpga manager",
        "/sys/class/fpga_manager/fpga0 must have state and flags, but has not",
        "boot AMD's kernel: others load bitstreams by device tree overlays alone, which pynq does "
        "not use",
    ),
    (
        "refused bitstream",
        lambda p: p.write("sys/class/fpga_manager/fpga0/state", "write error\n"),
        "fpga manager",
        "must be operating or unknown, but says: write error",
        "the last bitstream was refused: copy the overlay again, then reboot the board",
    ),
    (
        "no firmware folder",
        lambda p: p.remove("lib/firmware"),
        "firmware",
        "/lib/firmware must be a folder that can be written, but is not: the FPGA manager takes "
        "bitstreams from it",
        "mkdir -p /lib/firmware; on a read-only image: mount -o remount,rw /",
    ),
    (
        "no zocl",
        lambda p: p.remove("dev/dri"),
        "XRT",
        "must be whole, but has no /dev/dri/renderD*: pynq allocates through it",
        "install the XRT of the image's release, and enable zocl in the device tree",
    ),
    (
        "unmarked device tree",
        lambda p: (
            p.remove("proc/device-tree"),
            p.change(version_of=(VERSIONS | {"pynq": "4.0.0"}).get),
        ),
        "device tree",
        "must have chosen/pynq_board, by which pynq 4 knows that it is on a board, but has not",
        "build the image by PYNQ's own recipe, or add the node to the device tree",
    ),
    (
        "no overlay",
        lambda p: p.set(overlay=None),
        "overlay",
        "an overlay must be named, but is not",
        "name its folder with --overlay",
    ),
    (
        "emulated overlay",
        lambda p: emulated_overlay(
            load_package(MODELS / "mars" / "1").model, "fast", p.settings.overlay
        ),
        "overlay",
        "{overlay} must hold a bitstream, but is an emulated board's",
        "build one with make overlay, and copy its folder",
    ),
    (
        "another part",
        lambda p: real_overlay(p.settings.overlay, "xczu7ev-ffvc1156-2-e"),
        "overlay",
        "{overlay}/emamba.bit must be for xczu9eg, but is for xczu7ev-ffvc1156-2-e",
        "build it for the ZCU102 with make overlay",
    ),
    (
        "bitstream cut short",
        lambda p: (p.settings.overlay / "emamba.bit").write_bytes(
            (p.settings.overlay / "emamba.bit").read_bytes()[:-9]
        ),
        "overlay",
        "{overlay}/emamba.bit: must hold 64 bytes of configuration, but ends after 55",
        "copy the overlay again",
    ),
    (
        "full CMA",
        lambda p: p.write("proc/meminfo", "CmaTotal: 262144 kB\nCmaFree: 1024 kB\n"),
        "CMA",
        "contiguous memory must suffice for the DMA's buffers, but has 1 of 256 MiB free, 16.2 MiB "
        "needed",
        "stop what else holds buffers (Jupyter kernels keep theirs until they are shut down)",
    ),
    (
        "no CMA",
        lambda p: p.write("proc/meminfo", "MemTotal: 4000000 kB\n"),
        "CMA",
        "contiguous memory must suffice for the DMA's buffers, but has 0 of 0 MiB free, 16.2 MiB "
        "needed",
        "add cma=256M to the kernel's arguments, or lower EMAMBA_TRANSFER_FRAMES",
    ),
    (
        "no metadata folder",
        lambda p: p.remove("usr/local/share/pynq-venv/pynq/pl_server"),
        "metadata",
        "{root}/usr/local/share/pynq-venv/pynq/pl_server must be a folder that can be written, but "
        "is not: pynq keeps the last overlay's metadata there, and an old one must be removed",
        "start as root; under systemd name the folder in ReadWritePaths (install.sh does)",
    ),
    (
        "no lock folder",
        lambda p: p.remove("run/lock"),
        "owner",
        "{root}/run/lock must be a folder, for the lock of the board's owner, but is none",
        "name another file with EMAMBA_BOARD_LOCK",
    ),
    (
        "unit without XRT",
        lambda p: p.write(UNIT, "[Service]\nExecStart=/opt/emamba/venv/bin/emamba-service\n"),
        "systemd unit",
        "must set XILINX_XRT, but does not: pynq would find no devices",
        f"add Environment=XILINX_XRT=/usr to /{UNIT}, then systemctl daemon-reload",
    ),
    (
        "unit without its file",
        lambda p: p.remove("etc/emamba/emamba.env"),
        "systemd unit",
        "its EnvironmentFile /etc/emamba/emamba.env must be readable, but is not",
        "run deploy/board/install.sh again",
    ),
    (
        "unit with a misspelt setting",
        lambda p: p.write("etc/emamba/emamba.env", "EMAMBA_PROT=81\n"),
        "systemd unit",
        "must name settings only, but names EMAMBA_PROT",
        "see docs/service.md for their names, and correct /etc/emamba/emamba.env",
    ),
]

WARNINGS: list[tuple[str, Harm, str, str, str]] = [
    (
        "no UIO",
        lambda p: p.remove("sys/class/uio"),
        "interrupts",
        "no UIO device is called fabric: the service polls, which costs processor time",
        "add PYNQ's fabric node to the device tree and uio_pdrv_genirq.of_id=generic-uio to the "
        "kernel's arguments",
    ),
    (
        "no compiler",
        lambda p: p.change(find_compiler=no_compiler),
        "compiler",
        "guard and fallback are then the mirror, tens of times slower: needs a C++17 compiler "
        "(c++); install g++, or point CXX at one",
        "apt-get install g++, or copy its packages to the board",
    ),
    (
        "full card",
        lambda p: p.change(free_bytes=lambda _: 50 * MIB),
        "disk",
        "must have 200 MiB free, but has 50 MiB free",
        "grow the SD card's partition, or remove packages and logs",
    ),
    (
        "no unit",
        lambda p: p.remove(UNIT),
        "systemd unit",
        f"/{UNIT} is not there: the service does not start with the board",
        "run deploy/board/install.sh, then systemctl enable --now emamba",
    ),
    (
        "a rail without a sensor",
        lambda p: p.remove("sys/class/hwmon/hwmon3"),
        "power rails",
        "17 of 18 found: power is not measured whole",
        "enable CONFIG_SENSORS_INA2XX or CONFIG_INA2XX_ADC with CONFIG_SENSORS_IIO_HWMON in the "
        "kernel",
    ),
    (
        "no thermometer",
        lambda p: p.remove("sys/bus"),
        "temperatures",
        "no sensor of the chip answers",
        "enable CONFIG_XILINX_AMS in the kernel",
    ),
]


@pytest.mark.parametrize(
    ("state", "harm", "name", "found", "mend"),
    [
        pytest.param(state, harm, name, found, mend, id=label.replace(" ", "-"))
        for state, cases in (("fail", FAILURES), ("warn", WARNINGS))
        for label, harm, name, found, mend in cases
    ],
)
def test_each_complaint_is_found_alone_and_says_what_to_do(patient, state, harm, name, found, mend):
    harm(patient)
    places = {"root": patient.root, "overlay": patient.settings.overlay}
    # A model cannot be compared with an overlay that is not whole.
    ill = [finding for finding in patient.ill() if finding.found != UNCOMPARED]
    assert ill == [Finding(name, state, found.format(**places), mend)]


UNCOMPARED = "loads, but there is no whole overlay to compare its config hash with"


def test_another_board_is_refused_first(patient):
    patient.write("sys/firmware/devicetree/base/compatible", "xlnx,zynqmp-zcu104\0xlnx,zynqmp\0")
    assert patient.ill()[0] == Finding(
        "machine",
        "fail",
        "must be a ZCU102, but the device tree says xlnx,zynqmp-zcu104",
        "the overlay is for part xczu9eg-ffvb1156-2-e; boot an image made for the ZCU102",
    )


def test_missing_pynq_is_one_finding(patient):
    patient.change(pynq_folder=None, version_of=lambda _: None)
    (finding,) = patient.ill()
    assert (finding.name, finding.found) == ("pynq", "must be importable, but is not")


def test_model_of_another_config_hash_fails(patient, tmp_path, new_package):
    new_package(tmp_path / "models", "7")
    patient.set(models=tmp_path / "models")
    manifest = json.loads((patient.settings.overlay / "manifest.json").read_text())
    manifest["config_hash"] = "0" * 64
    (patient.settings.overlay / "manifest.json").write_text(json.dumps(manifest))
    (finding,) = patient.ill()
    assert (finding.name, finding.state) == ("model mars 7", "fail")
    assert finding.found.startswith("overlay and model must have one config hash, but the overlay")
    assert finding.mend == "choose the overlay built for this model, or build it"


def test_damaged_and_missing_models_fail(patient, tmp_path):
    folder = tmp_path / "models"
    patient.set(models=folder)
    (finding,) = patient.ill()
    assert finding.found == (
        f"{folder} must hold a package <name>/<version>/model.json, but holds none"
    )
    (folder / "mars" / "1").mkdir(parents=True)
    (folder / "mars" / "1" / "model.json").write_text("{")
    (finding,) = patient.ill()
    assert (finding.name, finding.state) == ("model mars 1", "fail")
    assert finding.mend


def test_owner_is_named_while_it_holds_the_lock(patient):
    with patient.settings.board_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711\n")
        lock.flush()
        (finding,) = patient.ill()
        assert finding.state == "warn"
        assert finding.found == f"process 4711 holds the board ({patient.settings.board_lock})"
    assert patient.ill() == []


def test_old_metadata_is_announced(patient):
    patient.write("usr/local/share/pynq-venv/pynq/pl_server/_current_metadata.pkl", "")
    found = {f.name: f.found for f in examine(patient.around, patient.settings)}
    assert found["metadata"].endswith("the last overlay's is forgotten at the start")


def test_laptop_is_told_that_it_is_no_board(tmp_path):
    around = replace(Surroundings.here(), root=tmp_path, environment={}, machine="x86_64")
    findings = examine(around, Settings(models=MODELS))
    assert findings[0].found == "must be aarch64, but is x86_64: this is no board"
    assert findings[0].mend == "run this on the ZCU102; --engine emulator needs none"
    assert all(finding.mend for finding in findings if finding.state != "ok")


def test_command_prints_findings_and_fails_where_one_does(patient):
    runner = CliRunner()
    given = [
        "doctor",
        *("--models", str(MODELS), "--overlay", str(patient.settings.overlay)),
        *("--board-lock", str(patient.settings.board_lock)),
    ]
    done = runner.invoke(cli, given, obj=patient.around)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].endswith(" ok, 0 warn, 0 fail")

    patient.change(euid=1000)
    done = runner.invoke(cli, given, obj=patient.around)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("fail")]
    assert " ".join(lines[at].split()) == (
        "fail user must be root, since pynq maps /dev/mem, but is user 1000"
    )
    assert lines[at + 1].strip() == "-> start with sudo, or by the systemd unit"

    done = runner.invoke(cli, [*given, "--json"], obj=patient.around)
    assert done.exit_code == 1
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert findings["user"]["state"] == "fail"
    assert runner.invoke(cli, ["doctor", "--port", "http"]).exit_code == 2
