"""The integer pipeline in NumPy: the mirror that defines every bit."""

from emamba.fixed.intervals import Bound, OverflowPossible, check_bounds, interval_bounds
from emamba.fixed.mirror import Mirror, Trace
from emamba.fixed.model import IntegerModel, ModelError
from emamba.fixed.tables import IntegerTable

__all__ = [
    "Bound",
    "IntegerModel",
    "IntegerTable",
    "Mirror",
    "ModelError",
    "OverflowPossible",
    "Trace",
    "check_bounds",
    "interval_bounds",
]
