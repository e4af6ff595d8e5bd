"""The kernel's control registers, as Vitis HLS makes them, in front of the compiled kernel.

Names and offsets are `INTERFACE`'s. A call takes its packet when both are there, computes, and is
done once its answer is taken; how long that takes is modelled, by the register `cycles`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

import numpy as np

from emamba.export.interface import COMMANDS, Interface
from emamba.simulated import SimulationError
from emamba_service.emulator.dma import Receiver, Sender, Words
from emamba_service.emulator.faults import Faults
from emamba_service.emulator.time import EmulatedTime

__all__ = ["Compiled", "CompiledCall", "Kernel"]

_log = logging.getLogger(__name__)

_START, _DONE, _IDLE, _READY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_AUTO_RESTART, _INTERRUPT = 1 << 7, 1 << 9
# Of IP_IER and IP_ISR.
_DONE_IRQ, _READY_IRQ = 1 << 0, 1 << 1
_TAKES_PACKET = (COMMANDS["infer"], COMMANDS["load"])


class CompiledCall(Protocol):
    """What `emamba.simulated.SimulatedKernel.call` returns, as far as it matters here."""

    @property
    def words(self) -> Words: ...


class Compiled(Protocol):
    """`emamba.simulated.SimulatedKernel`: the kernel's logic, without registers or time."""

    def call(
        self, command: int, count: int, packet: Words, last_keep: int = 0xFF
    ) -> CompiledCall: ...

    def register(self, name: str) -> int: ...

    def close(self) -> None: ...


class Kernel:
    """Registers and state of one configured kernel. `line` is told the interrupt's level."""

    def __init__(
        self,
        time: EmulatedTime,
        faults: Faults,
        interface: Interface,
        compiled: Compiled,
        sender: Sender,
        receiver: Receiver,
    ) -> None:
        self.line: Callable[[bool], None] = lambda level: None
        self._time, self._faults, self._compiled = time, faults, compiled
        self._sender, self._receiver = sender, receiver
        sender.offered, receiver.offered = self._take_packet, self._give_answer
        self._clock_hz = interface.clock_hz
        at = {register.name: register.offset for register in interface.registers}
        self._at_ctrl, self._at_gier = at["CTRL"], at["GIER"]
        self._at_ier, self._at_isr = at["IP_IER"], at["IP_ISR"]
        self._at_command, self._at_count = at["command"], at["count"]
        self._outputs = [register for register in interface.arguments if register.is_output]
        self._values = {
            offset: 0 for register in interface.arguments for _, offset in register.words
        }
        self._valid = {register.words[-1][1] for register in self._outputs}
        self._writable = {
            register.offset for register in interface.arguments if not register.is_output
        }
        self._ctrl = _IDLE
        self._gier = self._ier = self._isr = 0
        self._wants_packet = False
        self._started_s = 0.0
        self._command = self._count = 0
        self._parts: list[Words] = []
        self._answer: Words | None = None
        self._image: Words | None = None
        # What registers show instead of what the compiled kernel says.
        self._shown: dict[str, int] = {}
        self._identity = 1 << faults.random.randrange(32) if faults.strikes("wrong_identity") else 0

    def read(self, offset: int) -> int:
        """The register at `offset`; reading `AP_DONE`, `AP_READY` or `_ap_vld` clears it."""
        if offset == self._at_ctrl:
            value = self._ctrl | (_INTERRUPT if self._interrupts else 0)
            self._ctrl &= ~(_DONE | _READY)
            return value
        if offset in self._valid:
            value, self._values[offset] = self._values[offset], 0
            return value
        if offset == self._at_gier:
            return self._gier
        if offset == self._at_ier:
            return self._ier
        if offset == self._at_isr:
            return self._isr
        return self._values.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write the register at `offset`; a bit of `IP_ISR` toggles where 1 is written."""
        if offset == self._at_ctrl:
            self._ctrl = (self._ctrl & ~_AUTO_RESTART) | (value & _AUTO_RESTART)
            if value & _START and not self._ctrl & _START:
                self._start()
        elif offset in self._writable:
            self._values[offset] = value
        elif offset == self._at_gier:
            self._gier = value & 1
        elif offset == self._at_ier:
            self._ier = value & (_DONE_IRQ | _READY_IRQ)
        elif offset == self._at_isr:
            self._isr ^= value & (_DONE_IRQ | _READY_IRQ)
        self._tell_line()

    @property
    def _interrupts(self) -> bool:
        return bool(self._gier and self._isr)

    def _tell_line(self) -> None:
        self.line(self._interrupts)

    def _start(self) -> None:
        self._ctrl = (self._ctrl | _START) & ~_IDLE
        self._command = self._values[self._at_command]
        self._count = self._values[self._at_count]
        self._started_s = self._time.now()
        # As `read_call` in hls/include/emamba/axis.hpp: these calls wait for a packet.
        self._wants_packet = self._command in _TAKES_PACKET and self._count > 0
        if self._wants_packet:
            self._take_packet()
        else:
            self._compute(np.zeros(0, np.uint64), 0xFF)

    def _take_packet(self) -> None:
        if self._wants_packet and self._sender.ready:
            self._started_s = self._time.now()
            self._sender.send(self._arrived)

    def _arrived(self, words: Words, last_keep: int, ended: bool) -> None:
        self._parts.append(words)
        if not ended:
            # The rest of the packet is whatever comes next, as on the stream itself.
            return
        packet = np.concatenate(self._parts)
        self._parts.clear()
        self._wants_packet = False
        if self._faults.strikes("input_flip"):
            self._flip(packet)
        self._compute(packet, last_keep)

    def _compute(self, packet: Words, last_keep: int) -> None:
        infers = self._command == COMMANDS["infer"]
        if infers and self._image is not None and self._faults.strikes("weight_flip"):
            self._flip_weight(self._image)
        try:
            answer = self._compiled.call(self._command, self._count, packet, last_keep).words
        except SimulationError as error:
            _log.warning("the emulated kernel hangs until the next download: %s", error)
            return
        if self._command == COMMANDS["load"]:
            self._image, self._shown = packet.copy(), {}
        if self._faults.strikes("output_flip") and len(answer):
            answer = answer.copy()
            self._flip(answer)
        seconds = self._compiled.register("cycles") / self._clock_hz
        if self._faults.strikes("slow_kernel"):
            seconds *= self._faults.slow_factor
        left_s = self._started_s + seconds - self._time.now()
        self._time.schedule(left_s, lambda: self._computed(answer))

    def _computed(self, answer: Words) -> None:
        if len(answer) == 0:
            self._finish()
            return
        self._answer = answer
        self._give_answer()

    def _give_answer(self) -> None:
        if self._answer is not None and self._receiver.ready:
            self._receiver.receive(self._answer, self._taken)

    def _taken(self, words: int) -> None:
        assert self._answer is not None, "only a given answer is taken"
        left = self._answer[words:]
        self._answer = left if len(left) else None
        if self._answer is None:
            self._finish()

    def _finish(self) -> None:
        for register in self._outputs:
            value = self._shown.get(register.name, self._compiled.register(register.name))
            if register.name == "config_hash":
                value ^= self._identity
            *words, (_, valid) = register.words
            for i, (_, offset) in enumerate(words):
                self._values[offset] = value >> (32 * i) & 0xFFFF_FFFF
            self._values[valid] = 1
        self._ctrl = (self._ctrl | _DONE | _READY | _IDLE) & ~_START
        self._isr |= self._ier & (_DONE_IRQ | _READY_IRQ)
        self._tell_line()
        if self._ctrl & _AUTO_RESTART:
            self._start()

    def _flip(self, words: Words) -> None:
        """Turn one bit of `words`, in place."""
        random = self._faults.random
        words[random.randrange(len(words))] ^= np.uint64(1 << random.randrange(64))

    def _flip_weight(self, image: Words) -> None:
        """Turn a bit of a weight in the compiled kernel; its registers go on as if nothing were.

        A word without a byte of all zeros or all ones holds int8 weights: shifts, tables and biases
        always have some.
        """
        as_bytes = image.view(np.uint8).reshape(-1, 8)
        full = np.flatnonzero(((as_bytes != 0) & (as_bytes != 0xFF)).all(axis=1))
        if len(full) == 0:
            return
        shown = self._shown.get("weights_crc", self._compiled.register("weights_crc"))
        word = full[self._faults.random.randrange(len(full))]
        image[word] ^= np.uint64(1 << self._faults.random.randrange(64))
        self._compiled.call(COMMANDS["load"], len(image), image)
        self._shown = {"weights_crc": shown}
