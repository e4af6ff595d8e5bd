"""From a float network and its formats to the integer model that a package holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from emamba.config import Fixed
from emamba.edges import quantise
from emamba.fixed import IntegerModel, IntegerTable
from emamba.fixed.model import block_names, tensor_shapes
from emamba.fixed.tables import TABLES, derive_table
from emamba.model import EMamba, PiecewiseLinear

__all__ = ["integer_tables", "parameter_values", "to_integer_model"]


def parameter_values(model: EMamba) -> dict[str, Tensor]:
    """Every parameter tensor by package name and shape; A is `-exp(A_log)`."""
    state = dict(model.state_dict())
    values = {}
    for name, shape in tensor_shapes(model.config).items():
        value = -state[f"{name}_log"].exp() if name.endswith(".A") else state[name]
        values[name] = value.detach().reshape(shape)
    return values


def integer_tables(model: EMamba, formats: Mapping[str, Fixed]) -> dict[str, IntegerTable]:
    """Each block's integer SiLU and exp, derived from the network's float tables."""
    tables = {}
    for kind, (x, y) in TABLES.items():
        function = model.tables[kind]
        if not isinstance(function, PiecewiseLinear):
            raise ValueError(f"the network's {kind} must be a piecewise-linear table, not exact")
        breakpoints, slope, intercept = (
            line.detach().double().numpy() for line in function.lines()
        )
        for at in block_names(model.config):
            tables[at + kind] = derive_table(
                kind, breakpoints, slope, intercept, formats[at + x], formats[at + y]
            )
    return tables


@torch.no_grad()
def to_integer_model(model: EMamba, formats: Mapping[str, Fixed]) -> IntegerModel:
    """Round every parameter to its format; raises `ModelError` if the result is inconsistent."""
    tensors = {
        name: quantise(value.double().numpy(), formats[name]).astype(np.int8)
        for name, value in parameter_values(model).items()
    }
    return IntegerModel(model.config, formats, tensors, integer_tables(model, formats))
