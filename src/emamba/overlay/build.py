"""From a package to a bitstream in steps that are run again only where their inputs changed.

    OUT/export/   sources, weights, golden vectors            export_hls
    OUT/hls/      project, csynth.xml, IP                     overlays/zcu102/hls.tcl
    OUT/vivado/   project, reports, bitstream, hand-off       overlays/zcu102/build.tcl
    OUT/          emamba.bit emamba.hwh manifest.json

Not run on the vendor's tools yet: overlays/README.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emamba.export import export_hls
from emamba.export.sources import kernel_root
from emamba.overlay.manifest import Reports, manifest
from emamba.overlay.reports import read_power, read_synthesis, read_timing, read_utilization
from emamba.overlay.tcl import hls_config
from emamba.package import Package

__all__ = ["VERSIONS", "OverlayError", "Tools", "build_overlay", "scripts_root"]

VERSIONS = "2022.1 to 2025.2"
_IP = Path("kernel/solution/impl/ip")
_SYNTHESIS = Path("kernel/solution/syn/report/csynth.xml")
_REPORTS = ("utilization.rpt", "timing_summary.rpt", "power.rpt")
_PRODUCTS = ("emamba.bit", "emamba.hwh")

Run = Callable[[Sequence[str], Path, Mapping[str, str]], int]


class OverlayError(Exception):
    """A build that cannot go on; the message says what to do."""


def run_logged(command: Sequence[str], folder: Path, settings: Mapping[str, str]) -> int:
    """Run a tool in `folder`, its output to `log.txt` there; returns the exit status."""
    with (folder / "log.txt").open("w") as log:
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, **settings}, stdout=log,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    return done.returncode


@dataclass(frozen=True)
class Tools:
    """The outside world: where a program is, how one is run, and where progress is told."""

    find: Callable[[str], str | None] = shutil.which
    run: Run = run_logged
    say: Callable[[str], None] = print


@dataclass(frozen=True)
class _Step:
    """One run of a tool: what it reads, and what must be there afterwards."""

    name: str
    folder: Path
    command: list[str]
    settings: dict[str, str]
    inputs: list[Path]
    products: list[Path]

    def key(self) -> str:
        """SHA-256 over command, settings and every input."""
        digest = hashlib.sha256(repr((self.command, sorted(self.settings.items()))).encode())
        for path in self.inputs:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()


def build_overlay(
    package: Package, preset: str, out: Path, tools: Tools | None = None, tap: str | None = None
) -> Path:
    """Build the bitstream of `package` folded by `preset` below `out`; returns its manifest.

    With `tap`, a stream's name, it answers with that stage's tokens. Raises `OverlayError` where a
    tool is missing or fails, `ReportError` or `ManifestError` where its reports are not understood,
    and what `export_hls` raises.
    """
    tools, out = tools or Tools(), out.resolve()
    export = out / "export"
    record = export_hls(package, preset, export, tap)
    (export / "hls_config.cfg").write_text(hls_config(export, kernel_root()))
    tools.say(f"export: {export}")
    hls_command, vivado = _find_tools(tools, export)
    hls = _hls_step(out, hls_command)
    _run(hls, tools)
    implementation = _vivado_step(out, vivado, hls)
    _run(implementation, tools)
    return _finish(record, out, hls, implementation, tools)


def scripts_root() -> Path:
    """The folder of the build scripts: in the wheel, or in the checkout beside `src/`."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "overlays" / "zcu102"
    return packed if packed.is_dir() else package.parents[1] / "overlays" / "zcu102"


def _find_tools(tools: Tools, export: Path) -> tuple[list[str], str]:
    """The command that runs an HLS script, and Vivado."""
    runner, older, vivado = (tools.find(name) for name in ("vitis-run", "vitis_hls", "vivado"))
    if runner is not None:
        hls = [runner, "--mode", "hls", "--tcl"]
    elif older is not None:
        hls = [older, "-f"]
    missing = [] if runner or older else ["vitis-run (or, before 2024.2, vitis_hls)"]
    missing += [] if vivado else ["vivado"]
    if missing:
        raise OverlayError(
            f"{' and '.join(missing)} must be on PATH: install Vitis and Vivado, {VERSIONS}, then "
            "`source <install>/Vitis/<version>/settings64.sh` and "
            "`source <install>/Vivado/<version>/settings64.sh` (from 2025.1 on "
            "`<install>/<version>/Vitis/settings64.sh`) and build again; what they would start "
            f"from is in {export}"
        )
    assert vivado is not None
    return hls, vivado


def _hls_step(out: Path, command: list[str]) -> _Step:
    export, folder, scripts = out / "export", out / "hls", scripts_root()
    return _Step(
        name="hls",
        folder=folder,
        command=[*command, str(scripts / "hls.tcl")],
        settings={
            "EMAMBA_EXPORT": str(export),
            "EMAMBA_KERNELS": str(kernel_root()),
            "EMAMBA_OUT": str(folder),
        },
        inputs=[
            *_files(export, ("*.cpp", "emamba/*.hpp", "*.bin")),
            *_files(kernel_root(), ("include/emamba/*.hpp", "test/*.cpp")),
            *_scripts("hls.tcl"),
        ],
        products=[folder / _IP / "component.xml", folder / _SYNTHESIS],
    )


def _vivado_step(out: Path, vivado: str, hls: _Step) -> _Step:
    folder, ip = out / "vivado", hls.folder / _IP
    return _Step(
        name="vivado",
        folder=folder,
        command=[vivado, "-mode", "batch", "-source", str(scripts_root() / "build.tcl")],
        settings={"EMAMBA_IP": str(ip), "EMAMBA_OUT": str(folder)},
        inputs=[
            ip / "component.xml",
            *_files(ip, ("hdl/verilog/*",)),
            *_scripts("build.tcl", "bd.tcl", "constraints.xdc"),
        ],
        products=[folder / name for name in (*_PRODUCTS, *_REPORTS)],
    )


def _files(root: Path, patterns: Iterable[str]) -> list[Path]:
    return [path for pattern in patterns for path in sorted(root.glob(pattern)) if path.is_file()]


def _scripts(*names: str) -> list[Path]:
    return [scripts_root() / name for name in ("common.tcl", "interface.tcl", *names)]


def _run(step: _Step, tools: Tools) -> None:
    """Run a step, unless it ended well before with the same inputs."""
    key, stamp = step.key(), step.folder / "inputs.sha256"
    done = stamp.is_file() and stamp.read_text() == key
    if done and all(product.is_file() for product in step.products):
        tools.say(f"{step.name}: up to date")
        return
    step.folder.mkdir(parents=True, exist_ok=True)
    for old in (stamp, *step.products):
        old.unlink(missing_ok=True)
    tools.say(f"{step.name}: {' '.join(step.command)}")
    status = tools.run(step.command, step.folder, step.settings)
    if status != 0:
        raise OverlayError(
            f"{step.name} must exit with 0, not {status}; see {step.folder / 'log.txt'}, "
            "mend it and build again: earlier steps are kept"
        )
    for product in step.products:
        if not product.is_file():
            raise OverlayError(
                f"{step.name} must leave {product}, but did not; see {step.folder / 'log.txt'}"
            )
    stamp.write_text(key)


def _finish(
    record: Mapping[str, Any], out: Path, hls: _Step, implementation: _Step, tools: Tools
) -> Path:
    """Bitstream, hand-off and manifest side by side."""
    utilization, timing, power = (implementation.folder / name for name in _REPORTS)
    reports = Reports(
        synthesis=read_synthesis(hls.folder / _SYNTHESIS),
        utilization=read_utilization(utilization),
        timing=read_timing(timing),
        power=read_power(power),
    )
    for name in _PRODUCTS:
        shutil.copyfile(implementation.folder / name, out / name)
    path = out / "manifest.json"
    document = manifest(record, reports, out)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    tools.say(f"manifest: {path}")
    return path
