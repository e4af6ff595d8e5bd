"""The build scripts: they lint, run to their end, and say what the interface says."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emamba.export.interface import INTERFACE
from emamba.overlay.tcl import hls_config, interface_tcl
from overlay.tcl import TclFailed, TclRunner

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "overlays" / "zcu102"
TOOLS = {"hls.tcl": "hls", "build.tcl": "vivado", "constraints.xdc": "vivado"}
COMMANDS = Path(__file__).with_name("commands.json")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    names = ("EMAMBA_EXPORT", "EMAMBA_KERNELS", "EMAMBA_IP", "EMAMBA_OUT")
    return {name: str(tmp_path / name.lower()) for name in names}


def flags_of(call: list[str]) -> dict[str, str]:
    """Every flag with the word after it."""
    return dict(zip(call[1:], [*call[2:], ""], strict=True))


def test_the_checkout_holds_the_interface() -> None:
    text = (SCRIPTS / "interface.tcl").read_text()
    assert text == interface_tcl(), "run `python -m emamba.overlay`"


@pytest.mark.parametrize("script", TOOLS)
def test_a_script_runs_to_its_end(run_tcl: TclRunner, env: dict[str, str], script: str) -> None:
    assert run_tcl(SCRIPTS / script, TOOLS[script], env)


def test_hls_simulates_synthesises_and_exports(run_tcl: TclRunner, env: dict[str, str]) -> None:
    calls = run_tcl(SCRIPTS / "hls.tcl", "hls", env)
    steps = [name for name, *_ in calls if name.endswith("_design")]
    assert steps == ["csim_design", "csynth_design", "export_design"]
    assert ["set_top", "emamba_kernel"] in calls
    assert ["set_part", INTERFACE.part] in calls
    clock = flags_of(next(call for call in calls if call[0] == "create_clock"))
    assert float(clock["-period"]) == 1e9 / INTERFACE.clock_hz
    assert ["exit", ""] in calls
    flags = flags_of(next(call for call in calls if call[0] == "export_design"))
    vlnv = ":".join(flags[f"-{part}"] for part in ("vendor", "library", "ipname", "version"))
    assert vlnv == INTERFACE.window(INTERFACE.kernel).vlnv


def test_hls_cosimulates_when_asked(run_tcl: TclRunner, env: dict[str, str]) -> None:
    calls = run_tcl(SCRIPTS / "hls.tcl", "hls", env | {"EMAMBA_COSIM": "1"})
    assert ["cosim_design", "-argv", env["EMAMBA_EXPORT"]] in calls


def test_build_writes_bitstream_handoff_and_reports(
    run_tcl: TclRunner, env: dict[str, str]
) -> None:
    calls = run_tcl(SCRIPTS / "build.tcl", "vivado", env)
    written = {path.name for path in Path(env["EMAMBA_OUT"]).iterdir() if path.is_file()}
    assert written == {
        "emamba.bit",
        "emamba.hwh",
        "power.rpt",
        "timing_summary.rpt",
        "utilization.rpt",
        "utilization_hierarchical.rpt",
    }
    create = flags_of(next(call for call in calls if call[0] == "create_project"))
    assert create["-part"] == INTERFACE.part
    assert ["set_property", "board_part", INTERFACE.board_part, "current_project"] in calls


def test_the_block_design_has_the_interfaces_addresses(
    run_tcl: TclRunner, env: dict[str, str]
) -> None:
    calls = run_tcl(SCRIPTS / "build.tcl", "vivado", env)
    assigned = {}
    for call in calls:
        flags = flags_of(call)
        if call[0] == "assign_bd_address" and "-offset" in flags:
            assert flags["-target_address_space"] == "zynq_ultra_ps_e_0/Data"
            assigned[call[-1]] = (int(flags["-offset"], 16), int(flags["-range"], 16))
    assert assigned == {f"{w.instance}/{w.port}": (w.base, w.size) for w in INTERFACE.windows}


def test_the_block_design_has_the_interfaces_interrupts(
    run_tcl: TclRunner, env: dict[str, str]
) -> None:
    calls = run_tcl(SCRIPTS / "build.tcl", "vivado", env)
    nets = [call[1:] for call in calls if call[0] == "connect_bd_net"]
    for interrupt in INTERFACE.interrupts:
        pin = f"{interrupt.instance}/{interrupt.pin}"
        assert [pin, f"xlconcat_0/In{interrupt.number}"] in nets
    assert ["axi_intc_0/irq", "zynq_ultra_ps_e_0/pl_ps_irq0"] in nets


def test_the_block_design_has_the_interfaces_dma_and_clock(
    run_tcl: TclRunner, env: dict[str, str]
) -> None:
    calls = run_tcl(SCRIPTS / "build.tcl", "vivado", env)
    dma = {name: int(value) for name, value in configured(calls, "axi_dma_0").items()}
    assert dma["c_addr_width"] == INTERFACE.dma.address_width
    assert dma["c_sg_length_width"] == INTERFACE.dma.length_width
    assert dma["c_m_axis_mm2s_tdata_width"] == INTERFACE.dma.data_width == INTERFACE.ports[0].width
    assert dma["c_mm2s_burst_size"] == dma["c_s2mm_burst_size"] == INTERFACE.dma.burst
    assert dma["c_include_sg"] == 0
    clock = configured(calls, "clk_wiz_0")["CLKOUT1_REQUESTED_OUT_FREQ"]
    assert float(clock) * 1e6 == INTERFACE.clock_hz


def test_every_pin_of_the_design_is_connected(run_tcl: TclRunner, env: dict[str, str]) -> None:
    calls = run_tcl(SCRIPTS / "build.tcl", "vivado", env)
    made = {call[-1]: call[4].split(":")[2] for call in calls if call[0] == "create_bd_cell"}
    pins = json.loads(COMMANDS.read_text())["pins"]
    wanted = {f"{cell}/{pin}" for cell, ip in made.items() for pin in pins[ip]}
    # The smaller of the two interconnects uses fewer ports.
    wanted -= {"control_smc/S01_AXI", "memory_smc/M01_AXI", "memory_smc/M02_AXI"}
    connects = ("connect_bd_net", "connect_bd_intf_net")
    found = {
        pin for call in calls if call[0] in connects for word in call[1:] for pin in word.split()
    }
    assert found == wanted


def configured(calls: list[list[str]], instance: str) -> dict[str, str]:
    """Every CONFIG that a cell is given."""
    config: dict[str, str] = {}
    for call in calls:
        if call[:2] == ["set_property", "-dict"] and call[3] == instance:
            words = call[2].split()
            config |= dict(zip(words[::2], words[1::2], strict=True))
    return {name.removeprefix("CONFIG."): value for name, value in config.items()}


def test_missed_timing_fails_the_build(run_tcl: TclRunner, env: dict[str, str]) -> None:
    message = (
        "timing must be met, but WNS is -0.012 ns; see timing_summary.rpt, and fold more or "
        "lower clock_hz in src/emamba/export/interface.py"
    )
    with pytest.raises(TclFailed, match=f"^{re.escape(message)}$"):
        run_tcl(SCRIPTS / "build.tcl", "vivado", env, slack_ns="-0.012")
    out = Path(env["EMAMBA_OUT"])
    assert (out / "timing_summary.rpt").exists()
    assert not (out / "emamba.bit").exists()


def test_a_run_that_stops_fails_the_build(run_tcl: TclRunner, env: dict[str, str]) -> None:
    message = (
        "synth_1 must end at 100%, not 40%: route_design Complete; see runme.log below "
        "/runs/synth_1"
    )
    with pytest.raises(TclFailed, match=f"^{re.escape(message)}$"):
        run_tcl(SCRIPTS / "build.tcl", "vivado", env, progress="40%")


@pytest.mark.parametrize("script", ["hls.tcl", "build.tcl"])
def test_a_missing_setting_is_named(run_tcl: TclRunner, env: dict[str, str], script: str) -> None:
    del env["EMAMBA_OUT"]
    with pytest.raises(TclFailed, match=r"^EMAMBA_OUT must be set: the folder for project, .*\)$"):
        run_tcl(SCRIPTS / script, TOOLS[script], env)


TYPOS = {
    ("hls.tcl", "csynth_design", "csynt_design"): "no tool knows the command csynt_design",
    ("hls.tcl", "-flow_target", "-flow"): "open_solution must have flags of its own, not -flow",
    ("hls.tcl", "set_part [", "set_part a ["): (
        "set_part must have 1 to 1 arguments besides flags, not 2"
    ),
    ("build.tcl", "wait_on_run", "wait_for_run"): "no tool knows the command wait_for_run",
    ("build.tcl", "-norecurse [", "-recurse ["): (
        "add_files must have flags of its own, not -recurse"
    ),
    ("bd.tcl", "mm2s_aclk", "mm2s_clk"): (
        "axi_dma must have the pin that is asked for, but has no m_axi_mm2s_clk"
    ),
    ("bd.tcl", "clk_wiz_0/clk_out1", "clk_wiz/clk_out1"): (
        "a cell must be made before its pins are used, but clk_wiz is not"
    ),
    ("constraints.xdc", "set_property", "set_propperty"): (
        "no tool knows the command set_propperty"
    ),
}


@pytest.mark.parametrize(("typo", "message"), TYPOS.items(), ids=lambda value: value[-1])
def test_a_typo_stops_the_script(
    run_tcl: TclRunner,
    env: dict[str, str],
    tmp_path: Path,
    typo: tuple[str, str, str],
    message: str,
) -> None:
    script, right, wrong = typo
    copy = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, copy)
    text = (copy / script).read_text()
    assert right in text
    (copy / script).write_text(text.replace(right, wrong))
    outer = script if script in TOOLS else "build.tcl"
    with pytest.raises(TclFailed, match=f"^{re.escape(message)}$"):
        run_tcl(copy / outer, TOOLS[outer], env)


def test_the_configuration_of_the_unified_flow_says_the_same(tmp_path: Path) -> None:
    lines = hls_config(tmp_path, tmp_path / "hls").splitlines()
    assert lines[:3] == [f"part={INTERFACE.part}", "", "[hls]"]
    settings = [line.split("=", 1) for line in lines[3:]]
    values = {name: value for name, value in settings if not name.endswith("cflags")}
    assert float(values["clock"].removesuffix("ns")) == 1e9 / INTERFACE.clock_hz
    vlnv = ":".join(
        values[f"package.ip.{part}"] for part in ("vendor", "library", "name", "version")
    )
    assert vlnv == INTERFACE.window(INTERFACE.kernel).vlnv
    sources = [value for name, value in settings if name == "syn.file"]
    assert sources == [f"{tmp_path}/ip.cpp", f"{tmp_path}/top.cpp"]


def test_scripts_lint(tmp_path: Path) -> None:
    if importlib.util.find_spec("tclint") is None and shutil.which("tclint") is None:
        pytest.skip("tclint is not installed: pipx install tclint")
    sources = sorted([*SCRIPTS.glob("*.tcl"), *SCRIPTS.glob("*.xdc")])
    for tool in ("hls", "vivado"):
        spec = tmp_path / f"{tool}.json"
        spec.write_text(json.dumps({"name": tool, "commands": lint_commands(tool)}))
        chosen = [s for s in sources if TOOLS.get(s.name, "vivado") == tool]
        lint = [shutil.which("tclint") or "", "--commands", str(spec), *map(str, chosen)]
        if not lint[0]:
            lint[:1] = [sys.executable, "-m", "tclint"]
        done = subprocess.run(lint, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def lint_commands(tool: str) -> dict[str, Any]:
    """commands.json in tclint's words."""
    specs = {}
    for name, spec in json.loads(COMMANDS.read_text())[tool].items():
        least, most = spec["positionals"]
        specs[name] = {
            "positionals": [
                {"name": f"argument{i}", "required": i < least, "value": {"type": "any"}}
                for i in range(most)
            ],
            "switches": {
                flag: {
                    "required": False,
                    "repeated": False,
                    "value": {"type": "any"} if has_value else None,
                }
                for flag, has_value in spec["switches"].items()
            },
        }
    return specs
