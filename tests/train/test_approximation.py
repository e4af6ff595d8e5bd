from __future__ import annotations

import numpy as np
import pytest
import torch

from emamba.model import EXP, SILU, ApproximationSpec, PiecewiseLinear

SPECS = [SILU, EXP]


def worst(table: PiecewiseLinear, x: torch.Tensor) -> float:
    return (table(x) - table.spec.function(x)).abs().max().item()


@pytest.mark.parametrize(("spec", "segments"), [(SILU, 17), (EXP, 11)])
def test_segments_and_ranges_are_the_papers(spec: ApproximationSpec, segments: int) -> None:
    table = PiecewiseLinear(spec)
    breakpoints, slope, intercept = table.lines()
    assert len(breakpoints) == segments + 1
    assert len(slope) == len(intercept) == segments + 2
    assert breakpoints[[0, -1]].tolist() == [spec.low, spec.high]


def test_outside_its_range_silu_is_0_and_x() -> None:
    table = PiecewiseLinear(SILU)
    x = torch.tensor([-100.0, -7.01, 7.01, 100.0])
    torch.testing.assert_close(table(x), torch.tensor([0.0, 0.0, 7.01, 100.0]))


def test_outside_its_range_exp_is_0_and_e() -> None:
    table = PiecewiseLinear(EXP)
    torch.testing.assert_close(
        table(torch.tensor([-4.01, 1.01, 9.0])), torch.tensor([0.0, np.e, np.e]).float()
    )


@pytest.mark.parametrize("spec", SPECS)
def test_pieces_meet_at_every_inner_knot(spec: ApproximationSpec) -> None:
    table = PiecewiseLinear(spec)
    knots = table.knots[1:-1].detach()
    below, above = table(knots - 1e-4), table(knots + 1e-4)
    assert (below - above).abs().max().item() < 1e-3


@pytest.mark.parametrize("spec", SPECS)
def test_fitting_beats_even_spacing_where_the_arguments_are(spec: ApproximationSpec) -> None:
    x = (torch.randn(20_000) * 0.7 - 0.5).clamp(spec.low, 0.0 if spec is EXP else spec.high)
    even, fitted = PiecewiseLinear(spec), PiecewiseLinear(spec)
    fitted.fit(x.numpy())
    assert torch.all(fitted.knots.diff() > 0)
    mean_square = [(t(x) - spec.function(x)).square().mean().item() for t in (even, fitted)]
    assert mean_square[1] < 0.25 * mean_square[0]
    assert worst(fitted, x) < 0.03


def test_breakpoints_learn() -> None:
    """Gradient descent on the error moves knots and values, and lowers it."""
    table = PiecewiseLinear(SILU)
    x = torch.randn(4000)
    before = table.knots.detach().clone()
    optimiser = torch.optim.Adam(table.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = (table(x) - SILU.function(x)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert not torch.equal(table.knots.detach()[3:-3], before[3:-3])
