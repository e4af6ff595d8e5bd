"""Sizes and number formats of one network of the family. Knows nobody.

Names are the checkpoint's own: `d_model n_layer d_state d_conv expand dt_rank d_inner`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

__all__ = ["ConfigError", "Fixed", "ModelConfig", "config_hash"]


class ConfigError(ValueError):
    """A size or format that cannot describe a network of the family."""


@dataclass(frozen=True)
class Fixed:
    """A signed, symmetric, power-of-two number format: `value = q * 2**-frac`.

    `width` counts bits including the sign; `frac` counts fractional bits and may be negative
    or exceed `width`. The integer range is symmetric, `[-(2**(width-1) - 1), 2**(width-1) - 1]`,
    so that negation never overflows.
    """

    width: int
    frac: int

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 48:
            raise ConfigError(f"a format's width must be 2..48 bits, not {self.width}")
        if not -48 <= self.frac <= 48:
            raise ConfigError(f"a format's frac must be -48..48, not {self.frac}")

    @property
    def max_int(self) -> int:
        """The largest representable integer; the smallest is its negative."""
        return (1 << (self.width - 1)) - 1

    @property
    def lsb(self) -> float:
        """The value of one unit."""
        return float(2.0**-self.frac)

    def __str__(self) -> str:
        return f"int{self.width} Q{self.width - self.frac}.{self.frac}"


@dataclass(frozen=True)
class ModelConfig:
    """Every size of an eMamba network; derived sizes are properties.

    The input is a map of `input_height x input_width x input_channels` int8 values, cut into
    `patch x patch` patches in row-major order, one token each; the output is a vector of
    `n_outputs` numbers.
    """

    input_height: int
    input_width: int
    input_channels: int
    n_outputs: int
    d_model: int
    n_layer: int
    d_state: int
    d_conv: int
    expand: int
    dt_rank: int
    patch: int
    head_width: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{field.name} must be an integer >= 1, not {value!r}")
        for name in ("input_height", "input_width"):
            size = getattr(self, name)
            if size % self.patch:
                raise ConfigError(
                    f"{name} must be a multiple of patch, but {size} % {self.patch} = "
                    f"{size % self.patch}"
                )

    @property
    def d_inner(self) -> int:
        """Channels inside a block."""
        return self.expand * self.d_model

    @property
    def n_tokens(self) -> int:
        """Patches in one frame, the length of the scanned sequence."""
        return (self.input_height // self.patch) * (self.input_width // self.patch)

    @property
    def patch_dim(self) -> int:
        """Values in one patch."""
        return self.patch * self.patch * self.input_channels

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one frame."""
        return (self.input_height, self.input_width, self.input_channels)

    @property
    def head_inputs(self) -> int:
        """Values that the head sees: every token's features, flattened."""
        return self.n_tokens * self.d_model

    def to_json(self) -> dict[str, int]:
        """The sizes as a JSON object, in declaration order."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, obj: Any) -> ModelConfig:
        """Read `to_json`'s object back; refuses missing and unknown keys."""
        if not isinstance(obj, dict):
            raise ConfigError(f"config must be a JSON object, not {type(obj).__name__}")
        names = {field.name for field in dataclasses.fields(cls)}
        if set(obj) != names:
            missing, unknown = sorted(names - set(obj)), sorted(set(obj) - names)
            raise ConfigError(
                f"config must have exactly the keys {sorted(names)}; "
                f"missing {missing}, unknown {unknown}"
            )
        return cls(**obj)


def config_hash(config: ModelConfig, widths: dict[str, int]) -> str:
    """SHA-256 of the canonical JSON of sizes and bit widths, as 64 hex digits.

    Two packages with the same hash run on the same bitstream: scales, tables and weights are
    loaded at run time, sizes and widths are wired.
    """
    canonical = json.dumps(
        {"config": config.to_json(), "widths": widths}, sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()
