from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emamba.config import ConfigError, Fixed, ModelConfig, config_hash
from random_models import MARS_CONFIG

WIDTHS = {"u": 8}


def test_derived_sizes_of_mars() -> None:
    c = MARS_CONFIG
    assert (c.d_inner, c.n_tokens, c.patch_dim, c.head_inputs) == (40, 16, 20, 320)


def test_json_round_trip() -> None:
    assert ModelConfig.from_json(MARS_CONFIG.to_json()) == MARS_CONFIG


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(ModelConfig)])
@pytest.mark.parametrize("bad", [0, -1, 2.0, "8", True, None])
def test_every_size_must_be_a_positive_integer(name: str, bad: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be an integer >= 1, not "):
        ModelConfig.from_json(MARS_CONFIG.to_json() | {name: bad})


def test_patch_must_divide_the_input() -> None:
    with pytest.raises(ConfigError, match="input_height must be a multiple of patch, but 8 % 3"):
        dataclasses.replace(MARS_CONFIG, patch=3)


def test_missing_and_unknown_keys_are_named() -> None:
    obj = MARS_CONFIG.to_json() | {"n_layers": 2}
    del obj["n_layer"]
    with pytest.raises(ConfigError, match=r"missing \['n_layer'\], unknown \['n_layers'\]"):
        ModelConfig.from_json(obj)
    with pytest.raises(ConfigError, match="must be a JSON object, not list"):
        ModelConfig.from_json([])


@given(st.sampled_from([f.name for f in dataclasses.fields(ModelConfig)]))
def test_hash_follows_every_size(name: str) -> None:
    other = ModelConfig.from_json(
        MARS_CONFIG.to_json() | {name: 2 * MARS_CONFIG.to_json()[name]}
        if name != "patch"
        else MARS_CONFIG.to_json() | {"patch": 4}
    )
    assert config_hash(other, WIDTHS) != config_hash(MARS_CONFIG, WIDTHS)


def test_hash_follows_widths_and_is_stable() -> None:
    assert config_hash(MARS_CONFIG, {"u": 9}) != config_hash(MARS_CONFIG, WIDTHS)
    assert config_hash(MARS_CONFIG, WIDTHS) == config_hash(
        ModelConfig.from_json(MARS_CONFIG.to_json()), WIDTHS
    )


def test_fixed_says_its_format() -> None:
    assert str(Fixed(16, 12)) == "int16 Q4.12"
    assert (Fixed(8, 5).max_int, Fixed(8, 5).lsb) == (127, 1 / 32)


@pytest.mark.parametrize(("width", "frac"), [(1, 0), (49, 0), (8, 49), (8, -49)])
def test_fixed_refuses_impossible_formats(width: int, frac: int) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Fixed(width, frac)
