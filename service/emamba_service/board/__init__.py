"""The engine that drives a board through pynq, real or emulated."""
