"""The mirror against an independent scalar oracle, and what must hold for any model."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emamba.config import ModelConfig
from emamba.fixed import Mirror, check_bounds
from oracle import Oracle
from random_models import MARS_CONFIG, random_model

configs = st.builds(
    ModelConfig,
    input_height=st.sampled_from([2, 4, 6]),
    input_width=st.sampled_from([2, 4]),
    input_channels=st.integers(1, 4),
    n_outputs=st.integers(1, 9),
    d_model=st.integers(4, 12),
    n_layer=st.integers(1, 3),
    d_state=st.integers(1, 5),
    d_conv=st.integers(2, 4),
    expand=st.integers(1, 3),
    dt_rank=st.integers(1, 3),
    patch=st.sampled_from([1, 2]),
    head_width=st.integers(1, 8),
)


def random_batch(config: ModelConfig, frames: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, (frames, *config.input_shape)).astype(np.int8)


def extreme_batch(config: ModelConfig) -> np.ndarray:
    """All low, all high, all zero, alternating signs, one hot value."""
    frames = np.zeros((5, *config.input_shape), np.int8)
    frames[0], frames[1] = -127, 127
    frames[3].flat[::2], frames[3].flat[1::2] = 127, -127
    frames[4].flat[0] = 127
    return frames


@settings(max_examples=30, deadline=None)
@given(configs, st.integers(0, 2**32 - 1))
def test_mirror_equals_the_scalar_oracle(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed)
    batch = np.concatenate([random_batch(config, 2, seed), extreme_batch(config)])
    oracle = Oracle(model)
    np.testing.assert_array_equal(Mirror(model).run(batch), [oracle.run(f) for f in batch])


@settings(max_examples=30, deadline=None)
@given(configs, st.integers(0, 2**32 - 1))
def test_every_stage_stays_in_its_format(config: ModelConfig, seed: int) -> None:
    model = random_model(config, seed)
    check_bounds(model)
    trace = Mirror(model).trace(extreme_batch(config))
    for name, value in trace.stages.items():
        residual = name.endswith(("patch_embed", "out_proj"))
        top = model.formats["residual" if residual else name].max_int
        assert int(np.abs(value).max()) <= top, name
    assert trace.stages["output"].shape == (5, config.n_outputs)


def test_frames_do_not_depend_on_their_batch() -> None:
    mirror = Mirror(random_model(MARS_CONFIG, 1))
    batch = random_batch(MARS_CONFIG, 300, 2)
    whole = mirror.run(batch)
    np.testing.assert_array_equal(
        whole[:7], np.concatenate([mirror.run(f[None]) for f in batch[:7]])
    )
    np.testing.assert_array_equal(whole[[299, 0]], mirror.run(batch[[299, 0]]))


def test_trace_ends_in_what_run_gives_and_counts_saturation() -> None:
    mirror = Mirror(random_model(MARS_CONFIG, 1))
    batch = random_batch(MARS_CONFIG, 4, 3)
    trace = mirror.trace(batch)
    np.testing.assert_array_equal(trace.stages["output"], mirror.run(batch))
    assert trace.seen["output"] == 4 * 57
    assert all(0 <= trace.saturated[name] <= seen for name, seen in trace.seen.items())
    assert sum(trace.saturated.values()) > 0


def test_an_empty_batch_gives_an_empty_answer() -> None:
    mirror = Mirror(random_model(MARS_CONFIG, 1))
    assert mirror.run(np.zeros((0, 8, 8, 5), np.int8)).shape == (0, 57)


def test_threads_share_one_mirror() -> None:
    mirror = Mirror(random_model(MARS_CONFIG, 1))
    batches = [random_batch(MARS_CONFIG, 3, seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(mirror.run, batches))
    for batch, outputs in zip(batches, got, strict=True):
        np.testing.assert_array_equal(outputs, mirror.run(batch))


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (np.zeros((1, 8, 8, 5), np.float32), r"must be int8 \[n, 8, 8, 5\], not float32"),
        (np.zeros((8, 8, 5), np.int8), r"not int8 \[8, 8, 5\]"),
        (np.zeros((1, 8, 8, 4), np.int8), r"not int8 \[1, 8, 8, 4\]"),
        (np.full((1, 8, 8, 5), -128, np.int8), r"must lie in -127..127, but holds -128"),
    ],
)
def test_mirror_refuses_another_batch(batch: np.ndarray, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Mirror(random_model(MARS_CONFIG, 1)).run(batch)


def test_the_numbers_have_not_changed() -> None:
    """A change here is a new arithmetic: kernels and shipped packages must follow."""
    outputs = Mirror(random_model(MARS_CONFIG, 7)).run(random_batch(MARS_CONFIG, 64, 8))
    digest = hashlib.sha256(outputs.astype("<i2").tobytes()).hexdigest()
    assert digest == "dbec6fa94c883125eb5bc6b4f8404826fd568b832df027cdb5f1b128bbe40654"
