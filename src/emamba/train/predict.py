"""What networks and their integers answer to a task's checked inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from emamba.engines import open_engine
from emamba.evaluate import in_batches
from emamba.fixed import IntegerModel
from emamba.model import EMamba
from emamba.package import decode, encode
from emamba.tasks import Task

__all__ = ["integer_outputs", "predict", "predict_integers"]

Answers = npt.NDArray[np.float64]


def predict(network: EMamba, task: Task, inputs: npt.NDArray[Any]) -> Answers:
    """A float network's answers, decoded by its task: joints (n, 19, 3) or probabilities."""
    like = network.patch_embed.weight

    def run(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        with torch.no_grad():
            outputs: Tensor = network(torch.from_numpy(task.encode(part)).to(like))
        return task.decode(outputs.double().cpu().numpy())

    return in_batches(run, inputs)


def predict_integers(
    model: IntegerModel, task: Task, inputs: npt.NDArray[Any], engine: str = "mirror"
) -> Answers:
    """The integer pipeline's answers, decoded; every engine gives the mirror's integers."""
    return decode(model, task, integer_outputs(model, task, inputs, engine))


def integer_outputs(
    model: IntegerModel, task: Task, inputs: npt.NDArray[Any], engine: str = "mirror"
) -> npt.NDArray[np.int16]:
    """The integer pipeline's outputs, (n, n_outputs), for a task's checked inputs."""
    running = open_engine(engine, model)
    try:
        return in_batches(lambda part: running.run(encode(model, task, part)), inputs)
    finally:
        running.close()
