from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from emamba.config import Fixed
from emamba.fixed import IntegerModel, OverflowPossible, check_bounds, interval_bounds
from random_models import MARS_CONFIG, random_model


def bounds_of(model: IntegerModel) -> dict[str, int]:
    return {bound.stage: bound.magnitude for bound in interval_bounds(model)}


def test_a_linear_bound_is_reached_by_the_worst_input() -> None:
    model = random_model(MARS_CONFIG, 0)
    weight = model.tensors["head.fc1.weight"].astype(np.int64)
    left = (
        model.formats["head.input"].frac
        + model.formats["head.fc1.weight"].frac
        - model.formats["head.fc1.bias"].frac
    )
    bias = model.tensors["head.fc1.bias"].astype(np.int64) << left
    worst = max(
        abs(int(row @ (127 * np.sign(row) * (1 if b >= 0 else -1)) + b))
        for row, b in zip(weight, bias, strict=True)
    )
    shift = model.formats["head.input"].frac + model.formats["head.fc1.weight"].frac
    shift -= model.formats["head.hidden"].frac
    grown = worst + (1 << shift - 1) if shift > 0 else worst << -shift
    assert bounds_of(model)["head.fc1 -> head.hidden"] == grown


def test_the_state_needs_less_than_its_accumulator() -> None:
    bounds = bounds_of(random_model(MARS_CONFIG, 0))
    # dA is at most 1 = 128; h and dB * u are at their formats' ends.
    assert bounds["blocks.0.dA * h + dB * u -> blocks.0.h_wide"] == 128 * 65535 + 2**23 - 1


def test_every_stage_with_an_accumulator_is_bounded() -> None:
    stages = set(bounds_of(random_model(MARS_CONFIG, 0)))
    assert len(stages) == 3 + 2 * 18


def test_a_model_that_could_overflow_is_refused() -> None:
    model = random_model(MARS_CONFIG, 0)
    formats = dict(model.formats) | {"head.hidden": Fixed(8, 40)}
    formats["head.fc2.bias"] = Fixed(8, 3)
    risky = dataclasses.replace(model, formats=formats)
    with pytest.raises(
        OverflowPossible,
        match=r"accumulator head.fc1 -> head.hidden must fit 32 bits, but can need \d\d",
    ):
        check_bounds(risky)
