"""Faults to inject: which, how often, and how often they were.

Every kind has occasions, such as each transfer of a channel; at an occasion an armed fault strikes
once, with a probability, or always. One seed gives one course of events.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass

__all__ = ["DMA_ERRORS", "KINDS", "Faults", "parse"]

DMA_ERRORS = ("internal", "slave", "decode")
_CHANNELS = ("mm2s", "s2mm")
_SHORTHANDS = {
    "dma_hang": tuple(f"dma_hang_{channel}" for channel in _CHANNELS),
    "dma_error": tuple(f"dma_error_{bit}_{channel}" for bit in DMA_ERRORS for channel in _CHANNELS),
}
_OCCASIONS = {
    "wrong_identity": "each download",
    "weight_flip": "each inference",
    "input_flip": "each packet",
    "output_flip": "each answer",
    "interrupt_lost": "each interrupt",
    "interrupt_spurious": "each transfer",
    "cma_exhausted": "each allocation",
    "slow_kernel": "each call",
    "overlay_gone": "each access to the programmable logic",
}
# All names that can be armed; the shorthands choose among their channels and error bits.
KINDS = (*_SHORTHANDS, *_SHORTHANDS["dma_hang"], *_SHORTHANDS["dma_error"], *_OCCASIONS)


@dataclass
class _Plan:
    choices: tuple[str, ...]
    kind: str
    rate: float
    after: int
    persistent: bool


class Faults:
    """What goes wrong on an emulated board. `injected` counts what has, by kind.

    `slow_factor` is how many times longer a call takes under `slow_kernel`. Thread-safe.
    """

    def __init__(self, seed: int = 0, slow_factor: float = 1e6) -> None:
        self.slow_factor = slow_factor
        # For the models: which bit, which word. Used under the board's lock.
        self.random = random.Random(seed)
        self._lock = threading.Lock()
        self._plans: list[_Plan] = []
        self._injected: Counter[str] = Counter()

    @property
    def injected(self) -> dict[str, int]:
        """How often each kind has struck."""
        with self._lock:
            return dict(self._injected)

    def arm(
        self, kind: str, *, after: int = 0, rate: float | None = None, persistent: bool = False
    ) -> None:
        """Inject `kind` once, when `after` occasions have passed, or at `rate` of all further ones.

        A rate of 1 is always. A `persistent` overlay_gone is not mended by a download. Raises
        `ValueError` for an unknown kind or a rate that is not above 0 and at most 1.
        """
        if kind not in KINDS:
            raise ValueError(f"a fault must be one of {', '.join(KINDS)}, not {kind!r}")
        if rate is not None and not 0 < rate <= 1:
            raise ValueError(f"the rate of {kind} must be above 0 and at most 1, not {rate}")
        if after < 0 or (persistent and kind != "overlay_gone"):
            raise ValueError(
                f"after must not be negative and only overlay_gone can be persistent; "
                f"{kind} came with after={after}, persistent={persistent}"
            )
        choices = _SHORTHANDS.get(kind, (kind,))
        with self._lock:
            chosen = self.random.choice(choices)
            self._plans.append(_Plan(choices, chosen, rate or 0.0, after, persistent))

    def clear(self) -> None:
        """Disarm everything; what has struck already stays as it is."""
        with self._lock:
            self._plans.clear()

    def strikes(self, kind: str) -> bool:
        """Whether `kind` is to go wrong on this occasion, which it is then counted for."""
        return self._strike(kind) is not None

    def overlay_gone(self) -> tuple[bool, bool]:
        """Whether the overlay goes away with this access, and whether for good."""
        plan = self._strike("overlay_gone")
        return plan is not None, plan is not None and plan.persistent

    def _strike(self, kind: str) -> _Plan | None:
        if not self._plans:
            return None
        with self._lock:
            for plan in self._plans:
                if plan.kind == kind and self._is_time(plan):
                    self._injected[kind] += 1
                    if plan.rate == 0:
                        self._plans.remove(plan)
                    else:
                        plan.kind = self.random.choice(plan.choices)
                    return plan
        return None

    def _is_time(self, plan: _Plan) -> bool:
        if plan.after > 0:
            plan.after -= 1
            return False
        # Always is always, whatever the generator says; it is drawn for rates alone.
        return plan.rate in (0, 1) or self.random.random() < plan.rate


def parse(text: str, seed: int = 1) -> Faults:
    """The faults that a setting names, comma-separated `kind[:rate][@after]`; empty: none.

    `output_flip:0.01` strikes one answer in a hundred, `dma_hang@50` once, after 50 transfers,
    `wrong_identity:1@1` every download but the first. Raises `ValueError` with one sentence for
    another text.
    """
    faults = Faults(seed)
    for item in filter(None, (part.strip() for part in text.split(","))):
        named, _, after = item.partition("@")
        kind, _, rate = named.partition(":")
        try:
            if not (rate or after):
                raise ValueError("neither rate nor after")
            faults.arm(kind, rate=float(rate) if rate else None, after=int(after) if after else 0)
        except ValueError as error:
            raise ValueError(
                "faults must be comma-separated kind:rate, kind@after or kind:rate@after, with a "
                "rate above 0 and at most 1, after a whole number, "
                f"and kind one of {', '.join(KINDS)}, not {item!r}"
            ) from error
    return faults
