"""Range norm against LayerNorm and RMSNorm, at equal budgets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from emamba.evaluate import pose_report
from emamba.model.norm import NORMS
from emamba.train.loop import Progress, Schedule
from emamba.train.mars import MarsRecipe, MarsRun
from emamba.train.mars_data import TrainingData
from emamba.train.predict import predict
from emamba.train.record import claim_folder

__all__ = ["compare_norms"]


def compare_norms(
    data: TrainingData, recipe: MarsRecipe, epochs: int, out: Path, progress: Progress
) -> dict[str, dict[str, float]]:
    """Held-out `mae_cm` and `rmse_cm` of each norm: same seed, data and epochs, labels only.

    Raises `OtherRun` if `out` holds an ablation of other data or length.
    """
    claim_folder(out, {"recipe": dataclasses.asdict(recipe), "epochs": epochs, **data.identity})
    schedule = Schedule(epochs=epochs, lr=6e-3, evaluate_every=epochs)
    found = {}
    for norm in NORMS:
        plain = dataclasses.replace(recipe, norm=norm, teachers=0, float_schedule=schedule)
        network = MarsRun(data, plain, out / norm, progress).train_float()
        report = pose_report(predict(network, data.task, data.held_out.features), data.held_out)
        found[norm] = {key: round(report[key], 3) for key in ("mae_cm", "rmse_cm")}
    return found
