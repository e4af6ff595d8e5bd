"""What the numbers mean, one module per task: a user's input in, an answer out."""

from __future__ import annotations

from typing import Any

from emamba.config import ModelConfig
from emamba.tasks.images import ImageTask
from emamba.tasks.mars import PoseTask
from emamba.tasks.task import InputError, TaskError

__all__ = ["ImageTask", "InputError", "PoseTask", "Task", "TaskError", "task_from_json"]

Task = PoseTask | ImageTask
_KINDS: dict[str, type[PoseTask] | type[ImageTask]] = {
    task.kind: task for task in (PoseTask, ImageTask)
}


def task_from_json(obj: Any, config: ModelConfig) -> Task:
    """The task a package describes; raises `TaskError` if unknown or at odds with `config`."""
    kind = obj.get("kind") if isinstance(obj, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise TaskError(f"task kind must be one of {sorted(_KINDS)}, not {kind!r}")
    return _KINDS[kind].from_json(obj, config)
