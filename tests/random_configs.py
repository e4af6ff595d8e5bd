"""Sizes of any network of the family, for property-based tests."""

from __future__ import annotations

from hypothesis import strategies as st

from emamba.config import ModelConfig


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any network of the family, of 1 to 256 tokens."""
    patch = draw(st.integers(1, 4))
    rows, cols = draw(st.integers(1, 16)), draw(st.integers(1, 16))
    return ModelConfig(
        input_height=patch * rows,
        input_width=patch * cols,
        input_channels=draw(st.integers(1, 5)),
        n_outputs=draw(st.integers(1, 100)),
        d_model=draw(st.integers(4, 64)),
        n_layer=draw(st.integers(1, 4)),
        d_state=draw(st.integers(1, 16)),
        d_conv=draw(st.integers(2, 4)),
        expand=draw(st.integers(1, 3)),
        dt_rank=draw(st.integers(1, 4)),
        patch=patch,
        head_width=draw(st.integers(1, 64)),
    )
