"""eMamba: one Mamba network as float model, integer mirror and model package."""

__version__ = "0.1.0"
