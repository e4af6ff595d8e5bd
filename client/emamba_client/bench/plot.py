"""A run as a picture; needs matplotlib, the extra `plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emamba_client.bench.load import Measured
from emamba_client.errors import InvalidInput

__all__ = ["check_plot", "plot"]

_PERCENTS = (*range(1, 100), 99.5, 99.9, 99.95, 99.99)


def check_plot(path: Path) -> None:
    """Raise `InvalidInput` where a picture cannot be made, before anything is measured."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise InvalidInput(f"--plot must be a .png or .svg file, but is {path}")
    _pyplot()


def plot(path: Path, run: dict[str, Any], measured: Measured) -> None:
    """Latency by percentile, and over time."""
    pyplot = _pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    # A percentile beyond one of as many answers as there are would be the largest again.
    percents = [percent for percent in _PERCENTS if _tail(percent) <= measured.answered]
    tails = [_tail(percent) for percent in percents]
    left.plot(tails, [1e6 * (measured.latency.percentile(p) or 0) for p in percents])
    left.set(xscale="log", xlabel="percentile", ylabel="latency (us)", ylim=(0, None))
    marks = (50, 90, 99, 99.9, 99.99)
    left.set_xticks([_tail(mark) for mark in marks], [f"{mark:g} %" for mark in marks])
    left.minorticks_off()
    right.plot(
        [at_s for at_s, _ in measured.points],
        [1e6 * latency_s for _, latency_s in measured.points],
        ".",
        markersize=2,
    )
    right.set(xlabel="time (s)", ylabel="latency (us)", ylim=(0, None))
    figure.suptitle(
        f"{run['mode']} loop, {run['connections']} connections, "
        f"{run['answered_hz']:,.0f} requests/s, engine {', '.join(run['engines'])}"
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _tail(percent: float) -> float:
    """One of how many is above a percentile."""
    return 1 / (1 - percent / 100)


def _pyplot() -> Any:
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra

        mpl.use("agg")
        from matplotlib import pyplot  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInput(
            "--plot needs matplotlib; install it with: pip install './client[plot]'"
        ) from error
    return pyplot
