"""The fake-quantised network and the mirror are the same numbers, to the last bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from emamba.config import Fixed
from emamba.edges import quantise
from emamba.fixed import Mirror, check_bounds
from emamba.model import EXP, SILU, EMamba, PiecewiseLinear
from emamba.quantise import (
    FakeQuantNumerics,
    calibrate,
    compare_stages,
    to_integer_model,
)
from emamba.quantise.calibrate import best_format
from emamba.quantise.convert import integer_tables
from random_models import MARS_CONFIG

Calibrated = tuple[EMamba, dict[str, Fixed]]


def test_fake_quantised_network_equals_the_mirror(
    calibrated: Calibrated, maps: torch.Tensor
) -> None:
    network, formats = calibrated
    model = to_integer_model(network, formats)
    check_bounds(model)
    wild = torch.cat([maps, 30 * maps, torch.zeros_like(maps[:1])]).double()
    network.double().set_numerics(FakeQuantNumerics(formats, model.tables))
    with torch.no_grad():
        fake = network(wild).numpy() / formats["output"].lsb
    batch = quantise(wild.numpy(), formats["input"]).astype(np.int8)
    np.testing.assert_array_equal(Mirror(model).run(batch), fake)


def test_streaming_steps_equal_the_mirror_too(calibrated: Calibrated, maps: torch.Tensor) -> None:
    network, formats = calibrated
    model = to_integer_model(network, formats)
    network.double().set_numerics(FakeQuantNumerics(formats, model.tables))
    with torch.no_grad():
        state, features = network.initial_state(len(maps)), []
        for token in network.tokens(maps.double()).unbind(1):
            out, state = network.step(token, state)
            features.append(out)
        fake = network.read_out(torch.stack(features, 1)).numpy() / formats["output"].lsb
    batch = quantise(maps.double().numpy(), formats["input"]).astype(np.int8)
    np.testing.assert_array_equal(Mirror(model).run(batch), fake)


def test_integers_stay_near_the_float_network(calibrated: Calibrated, maps: torch.Tensor) -> None:
    """Tolerance: 8-bit rounding through two untrained blocks, measured 1.9 %."""
    network, formats = calibrated
    model = to_integer_model(network, formats)
    with torch.no_grad():
        exact = network(maps).numpy()
    batch = quantise(maps.numpy(), formats["input"]).astype(np.int8)
    got = Mirror(model).run(batch) * formats["output"].lsb
    assert np.sqrt(np.square(got - exact).mean() / np.square(exact).mean()) <= 0.05


def test_gradients_pass_the_rounding(calibrated: Calibrated, maps: torch.Tensor) -> None:
    network, formats = calibrated
    network.tables.requires_grad_(False)
    network.set_numerics(FakeQuantNumerics(formats, integer_tables(network, formats)))
    network(maps).square().mean().backward()
    for name, parameter in network.named_parameters():
        if not name.startswith("tables."):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("n_layer", [1, 3])
def test_other_shapes_quantise_alike(n_layer: int) -> None:
    config = dataclasses.replace(
        MARS_CONFIG, n_layer=n_layer, d_model=12, d_state=3, expand=3, d_conv=2, dt_rank=3
    )
    small = torch.randn(8, 8, 8, 5)
    network = EMamba(config)
    for name, table in _tables().items():
        network.tables[name] = table
    formats = calibrate(network, small)
    model = to_integer_model(network, formats)
    network.double().set_numerics(FakeQuantNumerics(formats, model.tables))
    with torch.no_grad():
        fake = network(small.double()).numpy() / formats["output"].lsb
    batch = quantise(small.double().numpy(), formats["input"]).astype(np.int8)
    np.testing.assert_array_equal(Mirror(model).run(batch), fake)


def _tables() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"silu": PiecewiseLinear(SILU), "exp": PiecewiseLinear(EXP)})


def test_exact_functions_cannot_become_integers(maps: torch.Tensor) -> None:
    network = EMamba(MARS_CONFIG)
    with pytest.raises(ValueError, match="silu must be a piecewise-linear table, not exact"):
        to_integer_model(network, calibrate(network, maps))


def test_a_scale_is_chosen_by_error_not_by_the_largest_value() -> None:
    values = torch.cat([torch.randn(100_000), torch.tensor([40.0])])
    by_max = 8 - 1 - 6
    assert best_format(values, 8).frac > by_max
    assert best_format(torch.zeros(3), 8) == Fixed(8, 7)
    assert best_format(torch.tensor([0.5, -0.5]), 8).frac >= 7


def test_every_stage_is_compared_with_its_float(calibrated: Calibrated, maps: torch.Tensor) -> None:
    network, formats = calibrated
    model = to_integer_model(network, formats)
    errors = {e.stage: e for e in compare_stages(network, model, maps.double().numpy())}
    assert list(errors) == list(Mirror(model).trace(np.zeros((1, 8, 8, 5), np.int8)).stages)
    assert errors["patch_embed"].format == str(formats["residual"])
    # Tolerance: one 8-bit rounding at the input, all stages at the output.
    assert 0 < errors["patch_embed"].relative_error <= 0.02
    assert 0 < errors["output"].relative_error <= 0.05
    assert all(0 <= e.saturated <= 0.02 for e in errors.values())
