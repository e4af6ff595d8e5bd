"""What every task module shares."""

from __future__ import annotations

__all__ = ["InputError", "TaskError"]


class TaskError(ValueError):
    """A task description that does not fit its model."""


class InputError(ValueError):
    """A user's input that the task cannot read; `index` says which frame of a batch."""

    def __init__(self, message: str, index: int | None = None) -> None:
        super().__init__(message if index is None else f"frame {index}: {message}")
        self.index = index
