"""The float model in PyTorch: network, approximations and the hooks that quantisation uses."""

from emamba.model.approximation import (
    EXP,
    SILU,
    ApproximationSpec,
    Exact,
    PiecewiseLinear,
)
from emamba.model.network import EMamba, count_parameters
from emamba.model.numerics import FloatNumerics, Numerics

__all__ = [
    "EXP",
    "SILU",
    "ApproximationSpec",
    "EMamba",
    "Exact",
    "FloatNumerics",
    "Numerics",
    "PiecewiseLinear",
    "count_parameters",
]
