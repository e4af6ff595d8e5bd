"""Faults put into copies of the kernels: equality with the mirror must catch every one."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import csim
from csim import FULL
from emamba.export import kernel_sources
from emamba.export.golden import golden_vectors
from emamba.export.image import weights_image
from emamba.export.presets import preset
from emamba.fixed import IntegerModel
from random_models import MARS_CONFIG, random_model


class Fault(NamedTuple):
    """One token of one header, replaced."""

    header: str
    was: str
    now: str


FAULTS = (
    Fault("arithmetic", "(signed_t<WIDTH>(1) << shift.right) >> 1", "signed_t<WIDTH>(0)"),
    Fault("arithmetic", "return rounded >> shift.right;", "return rounded >> (shift.right + 1);"),
    Fault("arithmetic", "const bool above = wide > top;", "const bool above = wide > top + 1;"),
    Fault("arithmetic", "below ? signed_t<WIDTH>(-top)", "below ? signed_t<WIDTH>(-top - 1)"),
    Fault("arithmetic", "return x < 0 ? acc_t(0) : x;", "return x;"),
    Fault("chain", "shift < 0 ? -shift : 0", "shift < 0 ? -shift - 1 : 0"),
    Fault("chain", "byte < 128 ? byte : byte - 256", "byte < 128 ? byte : byte - 255"),
    Fault("chain", "from.read() | word_t(saturated)", "from.read()"),
    Fault("table", "slope * (first + stride * i)", "slope * (first + stride * i + 1)"),
    Fault("table", "--left;", "left -= 2;"),
    Fault("table", "int(row >> 16 & 0xffff)", "int(row >> 17 & 0xffff)"),
    Fault("matvec", "narrow<PAIR_WIDTH>(even + odd)", "narrow<PAIR_WIDTH>(even - odd)"),
    Fault("matvec", "acc[pe] = bias[pe];", "acc[pe] = 0;"),
    Fault("matvec", "next.sf = row_ends ? 0 : at.sf + 1;", "next.sf = 0;"),
    Fault("patches", "element % patch_row_bytes", "element % patch"),
    Fault("range_norm", "2 * total + d_model +", "2 * total +"),
    Fault("range_norm", "x[i] > most ? x[i] : most", "x[i] > most ? most : x[i]"),
    Fault("range_norm", "range == 0 ? 0u", "range == 1 ? 0u"),
    Fault("range_norm", "+ p.beta[at.nf][pe]", "- p.beta[at.nf][pe]"),
    Fault("in_proj", "acc[InProj::PE + pe], z_shift", "acc[InProj::PE + pe], x_shift"),
    Fault("conv1d", "p.weight[tap][at.nf][pe]", "p.weight[d_conv - 1 - tap][at.nf][pe]"),
    Fault("conv1d", "const act_t old = first ?", "const act_t old = false ?"),
    Fault("x_proj", "row < dt_rank + d_state ? 1 : 2", "row <= dt_rank + d_state ? 1 : 2"),
    Fault("dt_proj", "relu(acc[pe])", "acc[pe]"),
    Fault("selective_scan", "[-dt_A & (EXP_SIZE - 1)]", "[(1 - dt_A) & (EXP_SIZE - 1)]"),
    Fault("selective_scan", "const state_t h = first ?", "const state_t h = false ?"),
    Fault("selective_scan", "dA[lane] * h + dBu", "dA[lane] * h - dBu"),
    Fault("selective_scan", "stored.right = STATE_SHIFT;", "stored.right = STATE_SHIFT - 1;"),
    Fault("selective_scan", "sum = narrow<SCAN_ACC_WIDTH>(sum + read);", "sum = read;"),
    Fault("selective_scan", "in.C[first_state + s]", "in.B[first_state + s]"),
    Fault("gate", "y[i] * factor[pe]", "y[i] + factor[pe]"),
    Fault("gate", "z[at.nf * PE + pe] - SILU_FIRST", "z[at.nf * PE + pe] - SILU_FIRST - 1"),
    Fault("out_proj", "(acc_t(added), p.shift[1].left)", "(acc_t(0), p.shift[1].left)"),
    Fault("head", "token == 0 && at.sf == 0", "token == 1 && at.sf == 0"),
    Fault("head", "token == n_tokens - 1 && at.sf", "token == n_tokens - 2 && at.sf"),
    Fault("packets", "word << 16", "word << 15"),
    Fault("packets", "crc_masks.of[bit]", "crc_masks.of[31 - bit]"),
    Fault("axis", "crc = crc32(crc, word);", "crc = crc32(0, word);"),
    Fault("axis", "crc = crc32(crc, given);", "if (i > 0) crc = crc32(crc, given);"),
    Fault("axis", "input_crc = crc;", "input_crc = seen;"),
    Fault("axis", "answer_crc = crc;", "answer_crc = weights_crc;"),
)  # fmt: skip


def mutated_root(fault: Fault, folder: Path) -> Path:
    """A copy of the kernels with the fault; its text must be there, once."""
    shutil.copytree(csim.kernel_root(), folder, ignore=shutil.ignore_patterns("generated"))
    header = folder / "include" / "emamba" / f"{fault.header}.hpp"
    text = header.read_text()
    assert text.count(fault.was) == 1, f"{fault.header}.hpp must hold {fault.was!r} once"
    header.write_text(text.replace(fault.was, fault.now))
    return folder


def build(models: Sequence[IntegerModel], root: Path, folder: Path) -> list[list[object]]:
    """A testbench of the whole kernel of `root`, as one command for each model's golden vectors.

    No assertion is compiled in: equality alone must find a fault.
    """
    (folder / "emamba").mkdir(parents=True)
    folding = preset("fast", models[0].config)
    for name, text in kernel_sources(models[0].config, folding).items():
        (folder / name).write_text(text)
    program = folder / "testbench"
    csim.run_compiler(
        "-std=c++17", "-O0", "-w", "-DEMAMBA_PLAIN_INTS", "-DEMAMBA_SIMULATE", "-DEMAMBA_IP",
        f"-I{folder}", f"-I{root / 'include'}", f"-I{root / 'host'}", str(folder / "top.cpp"),
        str(folder / "ip.cpp"), str(root / "test" / "testbench.cpp"), "-o", str(program),
    )  # fmt: skip
    for number, model in enumerate(models):
        (folder / str(number)).mkdir()
        image = weights_image(model).astype("<u8").tobytes()
        (folder / str(number) / "weights.bin").write_bytes(image)
        (folder / str(number) / "golden.bin").write_bytes(golden_vectors(model))
    return [[program, folder / str(number)] for number in range(len(models))]


def is_caught(models: Sequence[IntegerModel], root: Path, folder: Path) -> bool:
    """Whether a testbench fails: a stage, output, mask or CRC differs, or a run does not end.

    The kernel must compile: a fault that does not is none.
    """
    for program, *arguments in build(models, root, folder):
        try:
            csim.run_program(Path(str(program)), *arguments, timeout_s=60)
        except (RuntimeError, subprocess.TimeoutExpired):
            return True
    return False


@pytest.fixture(scope="module")
def models() -> list[IntegerModel]:
    """Random weights over the full range; tokens with a range of 0; tokens with a small range.

    In the last, half of a token's features are a small number and the others 0, so that the
    rounding of their mean shows.
    """
    model = random_model(MARS_CONFIG, 27)
    weight = np.zeros_like(model.tensors["patch_embed.weight"])
    bias = np.zeros_like(model.tensors["patch_embed.bias"])
    halves = weight.copy()
    halves[::2, 0] = 1
    embeddings = [(weight, bias + 3), (halves, bias)]
    return [model] + [
        dataclasses.replace(
            model,
            tensors={**model.tensors, "patch_embed.weight": weights, "patch_embed.bias": biases},
        )
        for weights, biases in embeddings
    ]


def test_the_kernels_without_a_fault_pass(models: list[IntegerModel], tmp_path: Path) -> None:
    assert not is_caught(models, csim.kernel_root(), tmp_path / "export")


def test_every_fault_is_caught(models: list[IntegerModel], tmp_path: Path) -> None:
    """Every twelfth fault, and under `make verify-kernels` every one."""
    chosen = FAULTS[:: 1 if FULL else 12]

    def check(numbered: tuple[int, Fault]) -> bool:
        number, fault = numbered
        root = mutated_root(fault, tmp_path / str(number))
        return is_caught(models, root, tmp_path / f"export-{number}")

    with ThreadPoolExecutor(2) as pool:
        caught = list(pool.map(check, enumerate(chosen)))
    missed = [fault for fault, found in zip(chosen, caught, strict=True) if not found]
    assert len(FAULTS) >= 20
    assert missed == []
