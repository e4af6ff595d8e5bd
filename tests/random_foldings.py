"""Random foldings of random sizes, for property-based tests."""

from __future__ import annotations

from hypothesis import strategies as st

from emamba.export.folding import PADDED, Folding, stage_shapes
from random_configs import configs


@st.composite
def foldings(draw: st.DrawFn) -> Folding:
    """A valid folding of a network of `configs`."""
    config = draw(configs())
    lanes = {}
    for stage, shape in stage_shapes(config).items():
        pes = list(range(1, shape.rows + 1))
        if stage not in PADDED:
            pes = divisors(shape.rows)
        lanes[stage] = (draw(st.sampled_from(pes)), draw(st.sampled_from(divisors(shape.cols))))
    return Folding(config, lanes)


def divisors(number: int) -> list[int]:
    """In rising order."""
    return [d for d in range(1, number + 1) if number % d == 0]


def wider(folding: Folding, stage: str) -> Folding:
    """With the next larger PE of `stage` that divides its rows, if there is one."""
    pe, simd = folding.lanes[stage]
    larger = [d for d in divisors(stage_shapes(folding.config)[stage].rows) if d > pe]
    return Folding(folding.config, folding.lanes | {stage: (larger[0] if larger else pe, simd)})
