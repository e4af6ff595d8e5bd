"""Lines of dots in a terminal: eight to a character, two wide and four high."""

from __future__ import annotations

from rich.text import Text

__all__ = ["Braille"]

# The bit of each dot in a Braille pattern (Unicode 2800), by column and row.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800


class Braille:
    """`columns` times `rows` characters; dots count from the upper left corner."""

    def __init__(self, columns: int, rows: int) -> None:
        self.width = 2 * columns
        self.height = 4 * rows
        self._patterns = [[0] * columns for _ in range(rows)]
        self._styles = [[""] * columns for _ in range(rows)]

    def dot(self, x: float, y: float, style: str) -> None:
        """Set one dot, if it is inside; the last style of a character counts."""
        column, row = round(x), round(y)
        if 0 <= column < self.width and 0 <= row < self.height:
            self._patterns[row // 4][column // 2] |= _BITS[column % 2][row % 4]
            self._styles[row // 4][column // 2] = style

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Set the dots between two places."""
        (x0, y0), (x1, y1) = start, end
        steps = max(1, round(max(abs(x1 - x0), abs(y1 - y0))))
        for step in range(steps + 1):
            part = step / steps
            self.dot(x0 + (x1 - x0) * part, y0 + (y1 - y0) * part, style)

    def text(self) -> Text:
        """The picture."""
        picture = Text()
        for row, (patterns, styles) in enumerate(zip(self._patterns, self._styles, strict=True)):
            if row:
                picture.append("\n")
            for pattern, style in zip(patterns, styles, strict=True):
                picture.append(chr(_BLANK + pattern), style)
        return picture
