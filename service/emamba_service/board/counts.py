"""Counts what boards report of themselves."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter

from emamba_service.board.board import Report

__all__ = ["STEPS", "count_faults"]

# What mends a fault; a series of each is there before the first.
STEPS = ("reset", "reload", "return")


def count_faults(registry: CollectorRegistry) -> Report:
    """A board's `report` that counts faults by kind, and what mended them, in `registry`."""
    faults = Counter(
        "emamba_board_faults", "Faults of a board, by kind.", ["kind"], registry=registry
    )
    mended = Counter(
        "emamba_board_mended", "Faults mended, by what mended them.", ["step"], registry=registry
    )
    for step in STEPS:
        mended.labels(step)

    def report(event: str, what: str) -> None:
        (faults if event == "fault" else mended).labels(what).inc()

    return report
