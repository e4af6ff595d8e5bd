"""The HTTP inference service for eMamba model packages."""

from importlib.metadata import version

__version__ = version("emamba-service")
