"""Random sizes of the family and foldings of them, for property-based tests."""

from __future__ import annotations

from hypothesis import strategies as st

from emamba.config import ModelConfig
from emamba.export.folding import Folding, stage_shapes

# Stages whose rows are not padded.
_WHOLE_ROWS = ("range_norm", "in_proj", "conv1d", "selective_scan", "gate")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any network from 1 to 256 tokens."""
    patch = draw(st.sampled_from((1, 2, 4)))
    rows, columns = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    return ModelConfig(
        input_height=patch * rows,
        input_width=patch * columns,
        input_channels=draw(st.integers(1, 5)),
        n_outputs=draw(st.integers(1, 100)),
        d_model=draw(st.integers(4, 64)),
        n_layer=draw(st.integers(1, 4)),
        d_state=draw(st.integers(1, 16)),
        d_conv=draw(st.integers(2, 4)),
        expand=draw(st.integers(1, 3)),
        dt_rank=draw(st.integers(1, 3)),
        patch=patch,
        head_width=draw(st.integers(1, 64)),
    )


@st.composite
def foldings(draw: st.DrawFn) -> Folding:
    """A valid folding of a network of `configs`."""
    config = draw(configs())
    lanes = {}
    for stage, shape in stage_shapes(config).items():
        pes = list(range(1, shape.rows + 1))
        if stage in _WHOLE_ROWS:
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
