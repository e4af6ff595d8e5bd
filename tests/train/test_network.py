"""The float network: the paper's formulas, its size, and streaming equal to scanning."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from emamba.model import EMamba, FloatNumerics, count_parameters
from emamba.model.norm import NORMS, RangeNorm
from emamba.train.mars import MARS_CONFIG as SHIPPED
from random_models import MARS_CONFIG


def test_sizes_of_the_paper() -> None:
    assert count_parameters(EMamba(MARS_CONFIG)) == 17229
    assert count_parameters(EMamba(SHIPPED)) == 17069


def test_steps_equal_the_scan(maps: torch.Tensor) -> None:
    """Tolerance: float32 sums in another order."""
    network = EMamba(MARS_CONFIG).eval()
    with torch.no_grad():
        state, features = network.initial_state(len(maps)), []
        for token in network.tokens(maps).unbind(1):
            out, state = network.step(token, state)
            features.append(out)
        streamed = network.read_out(torch.stack(features, 1))
        torch.testing.assert_close(streamed, network(maps), rtol=1e-5, atol=1e-6)


def test_split_stream_equals_whole_stream(maps: torch.Tensor) -> None:
    network = EMamba(MARS_CONFIG).double().eval()
    tokens = network.tokens(maps.double())
    with torch.no_grad():
        state = network.initial_state(len(maps))
        for token in tokens[:, :9].unbind(1):
            _, state = network.step(token, state)
        kept = [(window.clone(), h.clone()) for window, h in state]
        a, _ = network.step(tokens[:, 9], state)
        b, _ = network.step(tokens[:, 9], kept)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_block_is_the_selective_scan_written_out(maps: torch.Tensor) -> None:
    """One block against loops over time, channel and state. Tolerance: float64 rounding."""
    config = dataclasses.replace(MARS_CONFIG, n_layer=1)
    network = EMamba(config).double().eval()
    block = network.blocks[0]
    with torch.no_grad():
        x = network.embed(network.tokens(maps[:1].double()))
        got = block(x, network.tables)[0]
        pre, z = block.in_proj(block.norm(x))[0].chunk(2, -1)
        weight, bias = block.conv1d.weight[:, 0], block.conv1d.bias
        A, n = -block.A_log.exp(), config.d_state
        h = torch.zeros(config.d_inner, n, dtype=torch.float64)
        for t in range(config.n_tokens):
            u = bias.clone()
            for tap in range(config.d_conv):
                source = t - (config.d_conv - 1) + tap
                if source >= 0:
                    u += weight[:, tap] * pre[source]
            dt, B, C = torch.split(block.x_proj(u), [config.dt_rank, n, n])
            delta = functional.relu(block.dt_proj(dt))
            y = torch.zeros(config.d_inner, dtype=torch.float64)
            for d in range(config.d_inner):
                h[d] = torch.exp(delta[d] * A[d]) * h[d] + delta[d] * B * u[d]
                y[d] = (C * h[d]).sum() + block.D[d] * u[d]
            want = x[0, t] + block.out_proj(y * functional.silu(z[t]))
            torch.testing.assert_close(got[t], want, rtol=1e-10, atol=1e-12)


def test_range_norm_is_equation_2() -> None:
    norm = RangeNorm("norm", FloatNumerics(), 5)
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0]])
    want = 3.0 * (x - 4.0) / 9.0
    torch.testing.assert_close(norm(x), want)


def test_a_flat_token_gives_beta() -> None:
    norm = RangeNorm("norm", FloatNumerics(), 5)
    with torch.no_grad():
        norm.beta.copy_(torch.arange(5.0))
    torch.testing.assert_close(norm(torch.full((1, 5), 7.0)), torch.arange(5.0)[None])


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_trains(norm: str, maps: torch.Tensor) -> None:
    network = EMamba(MARS_CONFIG, norm)
    network(maps).square().mean().backward()
    gradients = [p.grad for p in network.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_patches_are_row_major() -> None:
    network = EMamba(MARS_CONFIG)
    grid = torch.arange(8 * 8 * 5.0).reshape(1, 8, 8, 5)
    tokens = network.tokens(grid)
    want = grid[0, 2:4, 4:6].reshape(-1)
    np.testing.assert_array_equal(tokens[0, 1 * 4 + 2].numpy(), want.numpy())
