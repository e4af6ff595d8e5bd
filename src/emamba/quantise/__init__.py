"""From float network to integers: calibration, fake quantisation, conversion."""

from emamba.quantise.calibrate import calibrate
from emamba.quantise.compare import StageError, compare_stages
from emamba.quantise.convert import to_integer_model
from emamba.quantise.numerics import FakeQuantNumerics, ObservingNumerics

__all__ = [
    "FakeQuantNumerics",
    "ObservingNumerics",
    "StageError",
    "calibrate",
    "compare_stages",
    "to_integer_model",
]
