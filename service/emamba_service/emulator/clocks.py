"""The processing system's clock registers, and nothing else of it.

Field layout: UG1087, modules CRL_APB and CRF_APB. Values are those that a ZCU102 boots with as far
as pynq looks at them: 33.333 MHz in, 1.5 GHz IOPLL, 1.2 GHz processors, PL clock 0 at 100 MHz.
"""

from __future__ import annotations

__all__ = ["CRF_APB", "CRL_APB", "ProcessingSystem"]

CRL_APB = 0xFF5E_0000
CRF_APB = 0xFD1A_0000


def _pll(feedback: int) -> int:
    """A PLL at 33.333 MHz * `feedback` / 2."""
    return feedback << 8 | 1 << 16


def _divided(by: int, second: int) -> int:
    """A PL clock of the IOPLL, on."""
    return 1 << 24 | second << 16 | by << 8


_AFTER_BOOT = {
    CRL_APB + 0x20: _pll(90),  # IOPLL_CTRL
    CRL_APB + 0x30: _pll(63),  # RPLL_CTRL
    CRL_APB + 0xC0: _divided(15, 1),  # PL0_REF_CTRL to PL3_REF_CTRL
    CRL_APB + 0xC4: _divided(4, 1),
    CRL_APB + 0xC8: _divided(4, 1),
    CRL_APB + 0xCC: _divided(4, 1),
    CRF_APB + 0x20: _pll(72),  # APLL_CTRL
    CRF_APB + 0x2C: _pll(64),  # DPLL_CTRL
    CRF_APB + 0x38: _pll(90),  # VPLL_CTRL
    CRF_APB + 0x60: 1 << 24 | 1 << 8,  # ACPU_CTRL: the APLL as it is
}


class ProcessingSystem:
    """Registers by absolute address; what was never written answers 0. A download leaves them."""

    def __init__(self) -> None:
        self._words = dict(_AFTER_BOOT)

    def read(self, address: int) -> int:
        """The register at `address`."""
        return self._words.get(address, 0)

    def write(self, address: int, value: int) -> None:
        """Keep `value` at `address`."""
        self._words[address] = value
