"""The scan in chunks and the fused block equal the block's own steps, forwards and backwards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from emamba.config import Fixed
from emamba.model import EMamba, FloatNumerics
from emamba.model.fused import available
from emamba.model.scan import selective_scan
from emamba.quantise import FakeQuantNumerics
from emamba.quantise.convert import integer_tables
from random_models import MARS_CONFIG

WIDE = dataclasses.replace(MARS_CONFIG, d_conv=7, d_state=3, dt_rank=2, n_layer=3)
needs_compiler = pytest.mark.skipif(not available(), reason="needs a C++ compiler with OpenMP")


def gradients(network: EMamba, maps: Tensor) -> dict[str, Tensor]:
    """Of a sum that weighs every output differently; the outputs are among them."""
    network.zero_grad()
    outputs = network(maps)
    (outputs.float() ** 2 * torch.linspace(0.5, 2, outputs.shape[1])).sum().backward()
    return {"outputs": outputs.detach()} | {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def relative(got: dict[str, Tensor], want: dict[str, Tensor]) -> dict[str, float]:
    assert set(got) == set(want)
    return {
        name: float((got[name] - want[name]).norm() / want[name].norm().clamp_min(1e-9))
        for name in want
    }


@needs_compiler
@pytest.mark.parametrize("config", [MARS_CONFIG, WIDE])
def test_a_fused_network_equals_its_steps(config: object) -> None:
    """Tolerance: float32 sums in another order."""
    network = EMamba(config)  # type: ignore[arg-type]
    maps = torch.randn(9, *network.config.input_shape)
    want = gradients(network, maps)
    network.set_fused(True)
    assert max(relative(gradients(network, maps), want).values()) < 2e-5


@needs_compiler
def test_it_equals_its_steps_in_bfloat16(maps: Tensor) -> None:
    """Tolerance: bfloat16 has 8 bits of mantissa; measured 0.06 at most."""
    network = EMamba(MARS_CONFIG)
    want = gradients(network, maps)
    network.set_fused(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = relative(gradients(network, maps), want)
    assert max(errors.values()) < 0.12


@needs_compiler
def test_fused_rounding_is_the_integers_rounding(
    calibrated: tuple[EMamba, dict[str, Fixed]], maps: Tensor
) -> None:
    """Of gradients, only about: steps take the table's slope and stop at saturated values."""
    network, formats = calibrated
    network.set_numerics(FakeQuantNumerics(formats, integer_tables(network, formats)))
    network.tables.requires_grad_(False)
    want = gradients(network, maps)
    network.set_fused(True)
    got = gradients(network, maps)
    torch.testing.assert_close(got["outputs"], want["outputs"], rtol=0, atol=0)
    assert max(relative(got, want).values()) < 0.2


def test_the_chunked_scan_equals_the_sequential_one() -> None:
    """Tolerance: float64 rounding. Chunks that divide the length, that do not, and one alone."""
    shape = (3, 23, 5)
    u, B, C = torch.randn(*shape), torch.randn(3, 23, 4), torch.randn(3, 23, 4)
    delta, A = torch.rand(*shape), -torch.rand(5, 4)
    inputs = [t.double().requires_grad_() for t in (u, delta, A, B, C)]

    def sequential(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
        h, ys = torch.zeros(3, 5, 4, dtype=torch.float64), []
        for t in range(23):
            dA = (delta[:, t, :, None] * A).exp()
            h = dA * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
            ys.append((h * C[:, t, None]).sum(-1))
        return torch.stack(ys, 1)

    weight = torch.randn(*shape).double()
    want = sequential(*inputs)
    want_grads = torch.autograd.grad((want * weight).sum(), inputs)
    for chunk in (1, 4, 23, 64):
        got = selective_scan(*inputs, chunk=chunk)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
        grads = torch.autograd.grad((got * weight).sum(), inputs)
        torch.testing.assert_close(grads, want_grads, rtol=1e-11, atol=1e-11)


def test_a_network_in_chunks_equals_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where the fused operation is not. Tolerance: float64 rounding."""
    monkeypatch.setattr("emamba.model.network.available", lambda: False)
    network = EMamba(WIDE).double()
    maps = torch.randn(5, *WIDE.input_shape).double()
    want = gradients(network, maps)
    network.set_fused(True)
    assert max(relative(gradients(network, maps), want).values()) < 1e-10


def test_chunks_work_in_bfloat16(monkeypatch: pytest.MonkeyPatch, maps: Tensor) -> None:
    """Tolerance: as of the fused operation."""
    monkeypatch.setattr("emamba.model.network.available", lambda: False)
    network = EMamba(MARS_CONFIG)
    want = gradients(network, maps)
    network.set_fused(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        errors = relative(gradients(network, maps), want)
    assert max(errors.values()) < 0.12


def test_what_must_be_seen_step_by_step_is_not_fused(
    calibrated: tuple[EMamba, dict[str, Fixed]], maps: Tensor
) -> None:
    """Piecewise-linear tables are learned step by step."""
    network, _ = calibrated
    want = gradients(network, maps)
    network.set_fused(True)
    torch.testing.assert_close(gradients(network, maps), want, rtol=0, atol=0)
    assert isinstance(network.numerics, FloatNumerics)


@needs_compiler
def test_threads_give_the_same_gradients_every_time() -> None:
    """With more than two, sums depend on their order."""
    torch.set_num_threads(4)
    network = EMamba(WIDE)
    network.set_fused(True)
    maps = torch.randn(64, *WIDE.input_shape)
    first = gradients(network, maps)
    for _ in range(10):
        torch.testing.assert_close(gradients(network, maps), first, rtol=0, atol=0)


@needs_compiler
def test_the_process_keeps_its_small_floats() -> None:
    """-ffast-math would flush them to zero, in every thread that loads the library."""
    assert available()
    smallest = np.array([5e-324])
    assert float((smallest * 1.0)[0]) == 5e-324
