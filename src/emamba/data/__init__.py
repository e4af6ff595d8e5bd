"""Readers of data sets as people download them. NumPy only."""

from emamba.data.mars import DataError, MarsSplit, read_mars

__all__ = ["DataError", "MarsSplit", "read_mars"]
