"""From float network to integers: calibration, fake quantisation, conversion."""

from emamba.quantise.calibrate import calibrate, fit_tables, observe
from emamba.quantise.compare import StageError, compare_stages
from emamba.quantise.convert import to_integer_model
from emamba.quantise.numerics import FakeQuantNumerics

__all__ = [
    "FakeQuantNumerics",
    "StageError",
    "calibrate",
    "compare_stages",
    "fit_tables",
    "observe",
    "to_integer_model",
]
