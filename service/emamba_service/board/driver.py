"""The hot path: packets in and out of a configured board, each wait with a deadline.

Registers are those of docs/overlay.md and of the AXI DMA in simple mode (AMD PG021). Two pairs of
buffers take turns, so that packing and sending of one transfer overlap the computation of the one
before. Nothing here knows pynq, and nothing here mends: whatever is not exactly right is a
`BoardFault`.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.export.interface import COMMANDS, ERRORS, INTERFACE
from emamba.export.timing import frame_words
from emamba_service.board.answer import Answer
from emamba_service.board.ports import BoardFault, Buffer, Ports

__all__ = ["STAGES", "BoardDriver", "Inference"]

STAGES = ("pack", "transfer", "kernel", "unpack")

# AXI DMA, in words.
_CONTROL, _STATUS, _ADDRESS, _ADDRESS_HIGH, _LENGTH = 0, 1, 6, 7, 10
_SEND, _RECEIVE = 0, 12
_RUN, _RESET = 1 << 0, 1 << 2
_IOC, _ERROR_IRQ = 1 << 12, 1 << 14
_HALTED, _IDLE = 1 << 0, 1 << 1
_DMA_ERRORS = {1 << 4: "internal", 1 << 5: "slave", 1 << 6: "decode"}
_DMA_ERROR_BITS = sum(_DMA_ERRORS)
_GONE = 0xFFFF_FFFF

_START, _DONE, _AP_IDLE = 1 << 0, 1 << 1, 1 << 2
_REGISTER = {register.name: register.offset // 4 for register in INTERFACE.registers}
_CTRL = _REGISTER["CTRL"]

# A kernel answers small batches sooner than a sleeping process wakes up.
_SPIN_S = 200e-6
_SLICE_S = 2e-3


@dataclass
class Inference:
    """Outputs, or a tapped stage: int16 (n, elements); and the seconds of each of `STAGES`."""

    outputs: npt.NDArray[np.int16]
    stages_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


@dataclass
class _Slot:
    """One pair of buffers as frames, and what its present transfer holds.

    `packets` is the host's own memory: that of the board may be slow to read.
    """

    sent: Buffer
    received: Buffer
    packets: npt.NDArray[np.int8]
    sent_rows: npt.NDArray[np.int8]
    received_rows: npt.NDArray[np.int16]
    frames: int = 0
    input_crc: int = 0
    answer_crc: int = 0
    started_at: float = 0.0


class BoardDriver:
    """One configured board and one network's sizes; not thread-safe.

    `answer` is what the kernel answers with, its outputs if None. `transfer_frames` bound a
    transfer, `timeout_s` the wait for one. Raises `BoardFault` if the device's memory is exhausted.
    """

    def __init__(
        self,
        ports: Ports,
        config: ModelConfig,
        transfer_frames: int,
        timeout_s: float,
        answer: Answer | None = None,
    ) -> None:
        self._ports = ports
        answer = answer or Answer.of(config)
        self._frame_words = frame_words(config)
        self._answer_words = answer.words
        self._elements, self._lanes = answer.elements, answer.lanes
        self._capacity = transfer_frames
        self._timeout_s = timeout_s
        self._slots = tuple(self._slot() for _ in range(2))
        self._image: Buffer | None = None
        # What the registers hold, which keep it from call to call.
        self._arguments: dict[str, int] = {}
        self._high = {_SEND: -1, _RECEIVE: -1}
        self._kernel, self._dma, self._clock = ports.kernel, ports.dma, ports.clock

    def start(self, config_hash: str) -> None:
        """Set the DMA going and check who the kernel is; `config_hash` is the model's."""
        self.reset()
        # Registers say 0 until a first call has ended.
        self.clear()
        version = self._read("interface_version")
        if version != INTERFACE.version:
            raise BoardFault(
                "identity",
                f"register interface_version must be {INTERFACE.version}, but the bitstream says "
                f"{version}; build the overlay again with this version of emamba",
            )
        first = _REGISTER["config_hash"]
        found = int(self._kernel[first]) | int(self._kernel[first + 1]) << 32
        if found != int(config_hash[:16], 16):
            raise BoardFault(
                "identity",
                f"register config_hash must be the model's {config_hash[:16]}, but the bitstream "
                f"says {found:016x}; choose the overlay built for this model",
            )

    def reset(self) -> None:
        """Reset both channels of the DMA and set them going; raises `BoardFault` if they stay."""
        for channel in (_SEND, _RECEIVE):
            self._dma[channel + _CONTROL] = _RESET
        self._wait(lambda: not self._dma_bits(_CONTROL, _RESET), "the DMA's reset", watched=False)
        self._dma[_SEND + _CONTROL] = _RUN
        self._dma[_RECEIVE + _CONTROL] = _RUN | (_IOC | _ERROR_IRQ if self._ports.interrupt else 0)
        self._wait(lambda: not self._dma_bits(_STATUS, _HALTED), "the DMA's start", watched=False)
        for channel in (_SEND, _RECEIVE):
            self._dma[channel + _ADDRESS_HIGH] = self._high[channel] = 0
        self._arguments.clear()

    def _dma_bits(self, register: int, bits: int) -> int:
        """Those of `bits` that either channel has set."""
        return (int(self._dma[_SEND + register]) | int(self._dma[_RECEIVE + register])) & bits

    def is_idle(self) -> bool:
        """Whether the kernel waits for a call: if not, only a new configuration helps."""
        status = int(self._kernel[_CTRL])
        return status != _GONE and bool(status & _AP_IDLE)

    def clear(self) -> None:
        """Forget the kernel's sticky errors."""
        self._argue("command", COMMANDS["clear"])
        self._kernel[_CTRL] = _START
        self._wait(self._is_done, "the call clear")

    def load(self, image: npt.NDArray[np.uint64], crc: int) -> None:
        """Load a weights image, and check that the kernel holds it: `crc` is the image's CRC-32."""
        if self._image is None or len(self._image.words) != len(image):
            self._image = self._allocate(len(image))
        self._image.words[:] = image
        self._image.flush(image.nbytes)
        self._argue("command", COMMANDS["load"])
        self._argue("count", len(image))
        self._program(_SEND, self._image, image.nbytes)
        self._kernel[_CTRL] = _START
        self._wait(self._is_done, "loading the weights")
        self._wait_sent()
        self._check_errors()
        found = self._read("weights_crc")
        _check_crc("weights_crc", crc, found, "the kernel must hold the image that was sent")

    def infer(
        self, batch: npt.NDArray[np.int8], meanwhile: Callable[[], None] | None = None
    ) -> Inference:
        """The answers to frames (n, height, width, channels), n >= 0.

        `meanwhile` is called once while the board computes. Raises `BoardFault`.
        """
        result = Inference(np.empty((len(batch), self._elements), np.int16))
        parts = list(self._parts(len(batch)))
        if not parts:
            return result
        self._prepare(0, batch[parts[0]], result)
        self._send(0)
        self._start(0)
        for index, part in enumerate(parts):
            following = parts[index + 1] if index + 1 < len(parts) else None
            if following is not None:
                self._prepare(index + 1, batch[following], result)
                self._send(index + 1)
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
            self._finish(index, result)
            if following is not None:
                self._start(index + 1)
            self._unpack(index, part, result)
        return result

    def _parts(self, frames: int) -> Iterator[slice]:
        return (
            slice(start, min(start + self._capacity, frames))
            for start in range(0, frames, self._capacity)
        )

    def _prepare(self, index: int, frames: npt.NDArray[np.int8], result: Inference) -> None:
        """Frames into packets of whole words, out of the host's cache."""
        begin = time.perf_counter()
        slot = self._slots[index % 2]
        slot.frames = len(frames)
        packets = slot.packets[: len(frames)]
        flat = frames.reshape(len(frames), -1)
        packets[:, : flat.shape[1]] = flat
        slot.input_crc = zlib.crc32(packets.data)
        slot.sent_rows[: len(frames)] = packets
        slot.sent.flush(packets.nbytes)
        result.stages_s["pack"] += time.perf_counter() - begin

    def _send(self, index: int) -> None:
        """A transfer that the kernel takes as soon as it has done the one before."""
        self._wait_sent()
        slot = self._slots[index % 2]
        self._program(_SEND, slot.sent, 8 * slot.frames * self._frame_words)

    def _start(self, index: int) -> None:
        """Arm the receiving channel and start the kernel."""
        slot = self._slots[index % 2]
        slot.started_at = self._clock.now()
        self._argue("command", COMMANDS["infer"])
        self._argue("count", slot.frames)
        self._program(_RECEIVE, slot.received, 8 * slot.frames * self._answer_words)
        self._kernel[_CTRL] = _START

    def _finish(self, index: int, result: Inference) -> None:
        """Wait for the answer; its registers are read before another call may change them."""
        slot = self._slots[index % 2]
        self._wait(self._is_done, f"{slot.frames} frame{'s' * (slot.frames != 1)}")
        self._wait(lambda: self._is_channel_idle(_RECEIVE), "the receiving DMA")
        waited_s = self._clock.now() - slot.started_at
        if self._ports.interrupt:
            self._dma[_RECEIVE + _STATUS] = _IOC
        self._check_errors()
        slot.answer_crc = self._read("answer_crc")
        kernel_s = self._read("cycles") / INTERFACE.clock_hz
        result.stages_s["kernel"] += kernel_s
        result.stages_s["transfer"] += max(0.0, waited_s - kernel_s)
        _check_crc(
            "input_crc",
            slot.input_crc,
            self._read("input_crc"),
            "the kernel must take the frames that were sent",
        )

    def _unpack(self, index: int, part: slice, result: Inference) -> None:
        """The answer out of device memory, if it is the one that the kernel gave."""
        begin = time.perf_counter()
        slot = self._slots[index % 2]
        received = slot.received_rows[: slot.frames]
        slot.received.invalidate(received.nbytes)
        answers = received.copy()
        crc = zlib.crc32(answers.data)
        _check_crc("answer_crc", crc, slot.answer_crc, "the kernel's answer must arrive unchanged")
        result.outputs[part] = answers[:, self._lanes]
        result.stages_s["unpack"] += time.perf_counter() - begin

    def _wait_sent(self) -> None:
        # A length written to a busy channel is ignored.
        self._wait(lambda: self._is_channel_idle(_SEND), "the sending DMA")

    def _program(self, channel: int, buffer: Buffer, nbytes: int) -> None:
        high, low = divmod(buffer.address, 1 << 32)
        self._dma[channel + _ADDRESS] = low
        if self._high[channel] != high:
            self._dma[channel + _ADDRESS_HIGH] = self._high[channel] = high
        self._dma[channel + _LENGTH] = nbytes

    def _argue(self, name: str, value: int) -> None:
        """Write an argument, unless the register holds it."""
        if self._arguments.get(name) != value:
            self._kernel[_REGISTER[name]] = value
            self._arguments[name] = value

    def _read(self, name: str) -> int:
        return int(self._kernel[_REGISTER[name]])

    def _check_errors(self) -> None:
        errors = self._read("errors")
        if errors:
            named = [name for bit, name in enumerate(ERRORS) if errors >> bit & 1]
            raise BoardFault(
                "kernel-error",
                f"register errors must be 0, but is {errors:#x} ({', '.join(named)})",
            )

    def _is_done(self) -> bool:
        # The bit is cleared by reading it.
        status = int(self._kernel[_CTRL])
        if status == _GONE:
            raise _gone("register CTRL")
        return bool(status & _DONE)

    def _is_channel_idle(self, channel: int) -> bool:
        status = int(self._dma[channel + _STATUS])
        if status == _GONE:
            raise _gone("the DMA's status")
        if status & (_DMA_ERROR_BITS | _HALTED):
            raise _dma_fault(channel, status)
        return bool(status & _IDLE)

    def _wait(self, is_over: Callable[[], bool], what: str, watched: bool = True) -> None:
        """Return as soon as `is_over`; raise `BoardFault` after `timeout_s`.

        The last look is after the deadline, so that a host that was kept from the processor does
        not blame the board. `watched` looks for a halted DMA too, once it takes long.
        """
        if is_over():
            return
        begin = self._clock.now()
        while True:
            waited = self._clock.now() - begin
            is_long, is_late = waited >= _SPIN_S, waited >= self._timeout_s
            if is_long and watched:
                self._is_channel_idle(_SEND)
                self._is_channel_idle(_RECEIVE)
            if is_over():
                return
            if is_late:
                raise BoardFault(
                    "timeout", f"{what} must end within {self._timeout_s:g} s, but did not"
                )
            if is_long:
                self._rest(min(_SLICE_S, self._timeout_s - waited))

    def _rest(self, seconds: float) -> None:
        """Until the receiving DMA's interrupt; a lost one costs a slice only."""
        if self._ports.interrupt is None:
            self._clock.sleep(min(seconds, _SPIN_S))
            return
        until = self._clock.now() + seconds
        if not self._ports.interrupt(seconds):
            # Modelled time passes here only.
            self._clock.sleep(max(0.0, until - self._clock.now()))

    def _slot(self) -> _Slot:
        sent = self._allocate(self._capacity * self._frame_words)
        received = self._allocate(self._capacity * self._answer_words)
        sent_rows = sent.words.view(np.int8).reshape(self._capacity, -1)
        received_rows = received.words.view(np.int16).reshape(self._capacity, -1)
        return _Slot(sent, received, np.zeros_like(sent_rows), sent_rows, received_rows)

    def _allocate(self, words: int) -> Buffer:
        try:
            return self._ports.allocate(words)
        except (MemoryError, RuntimeError, OSError) as error:
            raise BoardFault(
                "memory",
                f"the board must have {8 * words} bytes of contiguous memory, but has not "
                f"({error}); boot with a larger cma=, or lower --transfer-frames",
            ) from error


def _check_crc(name: str, must: int, found: int, what: str) -> None:
    if found != must:
        raise BoardFault(
            "transport", f"{what}: register {name} must be {must:08x}, but is {found:08x}"
        )


def _gone(what: str) -> BoardFault:
    return BoardFault(
        "gone", f"{what} must be readable, but all its bits are 1: no overlay answers"
    )


def _dma_fault(channel: int, status: int) -> BoardFault:
    side = "sending" if channel == _SEND else "receiving"
    named = [name for bit, name in _DMA_ERRORS.items() if status & bit]
    return BoardFault(
        "dma-error",
        f"the {side} DMA must be running, but has halted ({' and '.join(named) or 'no'} error, "
        f"status {status:#x})",
    )
