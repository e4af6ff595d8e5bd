"""What a kernel answers with for each frame, and what the mirror says that it must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from emamba.config import ModelConfig
from emamba.export.golden import stage_of_stream
from emamba.export.pipeline import find_tap, output_stream, tokens_of
from emamba.fixed import Mirror

__all__ = ["Answer"]

_LANES = 4  # int16 of a word
# Of frames that are traced at once: every stage's integers take memory.
_TRACED = 128


@dataclass(frozen=True)
class Answer:
    """`tokens` times `count` int16 of each frame, every token padded to whole words.

    A tapped kernel differs from others in these sizes alone, so one driver does for both; its hot
    path takes them as they are. `stage` is the name in `Mirror.trace`.
    """

    stage: str
    tokens: int
    count: int

    @classmethod
    def of(cls, config: ModelConfig, tap: str | None = None) -> Answer:
        """The outputs, or the tokens of the stream `tap`; raises `TapError` for an unknown one."""
        stream = output_stream(config) if tap is None else find_tap(tap, config)
        return cls(stage_of_stream(config)[stream], tokens_of(stream, config), stream.count)

    @property
    def words(self) -> int:
        """64-bit words of a frame's answer."""
        return self.tokens * self._token_words

    @property
    def elements(self) -> int:
        """Integers of a frame's answer."""
        return self.tokens * self.count

    @property
    def lanes(self) -> slice | npt.NDArray[np.intp]:
        """Where the integers are among the int16 of a frame's words."""
        if self.tokens == 1:
            return slice(self.count)
        every = np.arange(_LANES * self.words).reshape(self.tokens, -1)
        return every[:, : self.count].ravel()

    def expected(self, mirror: Mirror, frames: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """What the mirror says, int16 (n, elements)."""
        if self.stage == "output":
            return mirror.run(frames)
        expected = np.empty((len(frames), self.elements), np.int16)
        for start in range(0, len(frames), _TRACED):
            part = slice(start, start + _TRACED)
            stage = mirror.trace(frames[part]).stages[self.stage]
            expected[part] = stage.reshape(len(stage), -1)
        return expected

    @property
    def _token_words(self) -> int:
        return -(-self.count // _LANES)
