"""Plots as inline SVG, drawn in the page's colours and at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from emamba_service.verify.figures import per_second
from emamba_service.verify.schema import DifferenceMap, Percentiles

__all__ = ["difference_map", "joint_bars", "latency_plot", "rate_plot"]

_WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 16, 34
_HEIGHT = 220
_FLOOR = _HEIGHT - _BOTTOM


def latency_plot(totals: Sequence[tuple[int, Percentiles]]) -> str:
    """p50, p90, p99 and the longest of each batch size, us, on a logarithmic axis."""
    low = math.floor(math.log10(min(max(p.p50, 0.1) for _, p in totals)))
    high = math.ceil(math.log10(max(max(p.max, 0.1) for _, p in totals)))
    high = max(high, low + 1)

    def y(value: float) -> float:
        share = (math.log10(max(value, 0.1)) - low) / (high - low)
        return _FLOOR - share * (_FLOOR - _TOP)

    parts = [_tick(y(10.0**power), _time(power)) for power in range(low, high + 1)]
    for x, (batch, p) in zip(_columns(len(totals)), totals, strict=True):
        parts += [
            f'<line class="thin" x1="{x:.1f}" y1="{y(p.p50):.1f}" x2="{x:.1f}" '
            f'y2="{y(p.max):.1f}"/>',
            f'<line class="thick" x1="{x:.1f}" y1="{y(p.p50):.1f}" x2="{x:.1f}" '
            f'y2="{y(p.p90):.1f}"/>',
            *(_dash(x, y(value)) for value in (p.p99, p.max)),
            f'<circle class="mark" cx="{x:.1f}" cy="{y(p.p50):.1f}" r="4"/>',
            _text(x + 9, y(p.p50) + 4, _short(p.p50), "start", "value"),
            _text(x, _FLOOR + 15, str(batch)),
        ]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "frames in a call"))
    return _svg("Latency of a call by batch size", _HEIGHT, parts)


def rate_plot(rates: Sequence[tuple[int, float]]) -> str:
    """Frames a second of each batch size, as bars."""
    top = _round_up(max(rate for _, rate in rates))
    scale = (_FLOOR - _TOP) / top
    parts = [_tick(_FLOOR - share * top * scale, f"{share * top:,.10g}") for share in (0, 0.5, 1)]
    for x, (batch, rate) in zip(_columns(len(rates)), rates, strict=True):
        height = rate * scale
        parts += [
            f'<rect class="bar" x="{x - 20:.1f}" y="{_FLOOR - height:.1f}" width="40" '
            f'height="{height:.1f}" rx="2"/>',
            _text(x, _FLOOR - height - 4, per_second(rate), style="value"),
            _text(x, _FLOOR + 15, str(batch)),
        ]
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 4, "frames in a call"))
    return _svg("Frames a second by batch size", _HEIGHT, parts)


def joint_bars(errors_cm: Sequence[tuple[str, float, float]]) -> str:
    """MAE and RMSE of each joint, cm: a bar up to the first, a line on to the second."""
    left, row = 96, 19
    scale = (_WIDTH - left - 44) / max(rmse for _, _, rmse in errors_cm)
    parts = []
    for index, (joint, mae, rmse) in enumerate(errors_cm):
        y = index * row + row / 2 + 4
        parts += [
            _text(left - 6, y + 4, joint, "end"),
            f'<rect class="bar" x="{left}" y="{y - 5:.1f}" width="{mae * scale:.1f}" '
            'height="10" rx="2"/>',
            f'<line class="thin" x1="{left + mae * scale:.1f}" y1="{y:.1f}" '
            f'x2="{left + rmse * scale:.1f}" y2="{y:.1f}"/>',
            f'<line class="thin" x1="{left + rmse * scale:.1f}" y1="{y - 4:.1f}" '
            f'x2="{left + rmse * scale:.1f}" y2="{y + 4:.1f}"/>',
            _text(left + rmse * scale + 6, y + 4, f"{rmse:.1f}", "start", "value"),
        ]
    return _svg("Error of each joint", len(errors_cm) * row + 8, parts)


def difference_map(where: DifferenceMap) -> str:
    """Frames to the right, outputs downwards; darker where more frames differ."""
    left, top, height = 30, 6, 200
    across = (_WIDTH - left - _RIGHT) / where.columns
    down = height / where.outputs
    parts = [
        f'<rect class="ground" x="{left}" y="{top}" width="{_WIDTH - left - _RIGHT}" '
        f'height="{height}"/>',
        _text(left - 5, top + 9, "0", "end"),
        _text(left - 5, top + height, str(where.outputs - 1), "end"),
        _text(left, top + height + 15, "first frame", "start"),
        _text(_WIDTH - _RIGHT, top + height + 15, "last frame", "end"),
        _text((left + _WIDTH) / 2, top + height + 15, f"{where.frames_per_column} frames a column"),
    ]
    for cell in where.cells:
        shade = 0.35 + 0.65 * cell.frames / where.frames_per_column
        parts.append(
            f'<rect class="wrong" x="{left + cell.column * across:.2f}" '
            f'y="{top + cell.output * down:.2f}" width="{max(across, 1.5):.2f}" '
            f'height="{max(down, 1.5):.2f}" opacity="{shade:.2f}"/>'
        )
    return _svg("Where frames and outputs differ", top + height + 20, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _columns(count: int) -> list[float]:
    """The middle of each of `count` columns."""
    width = (_WIDTH - _LEFT - _RIGHT) / count
    return [_LEFT + width * (index + 0.5) for index in range(count)]


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "label") -> str:
    return (
        f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(text)}</text>"
    )


def _tick(y: float, text: str) -> str:
    end = _WIDTH - _RIGHT
    line = f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}"/>'
    return line + _text(_LEFT - 6, y + 4, text, "end")


def _dash(x: float, y: float) -> str:
    return f'<line class="thin" x1="{x - 5:.1f}" y1="{y:.1f}" x2="{x + 5:.1f}" y2="{y:.1f}"/>'


def _time(power: int) -> str:
    """`10**power` us with a unit that suits it."""
    unit, base = next((u, b) for u, b in (("s", 6), ("ms", 3), ("us", -9)) if power >= b)
    return f"{10.0 ** (power - max(base, 0)):g} {unit}"


def _short(value_us: float) -> str:
    """A time to three digits, with a unit that suits it."""
    for unit, scale in (("s", 1e6), ("ms", 1e3)):
        if value_us >= scale:
            return f"{value_us / scale:.3g} {unit}"
    return f"{value_us:.3g} us"


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-9)))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value)
