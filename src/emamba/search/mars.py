"""Approximation-aware search for MARS: every candidate is judged as the integers it would ship as.

A trial picks the network's sizes, trains briefly, puts fitted tables in place of SiLU and exp,
calibrates, and is scored by the mirror's error on the held-out blocks. So a size that only works
in float does not win.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from emamba.config import ModelConfig
from emamba.evaluate import pose_report
from emamba.model import EMamba, count_parameters
from emamba.quantise import calibrate, fit_tables, to_integer_model
from emamba.train.loop import Progress, Schedule
from emamba.train.mars import MARS_CONFIG, MarsRecipe, MarsRun
from emamba.train.mars_data import TrainingData
from emamba.train.predict import predict_integers
from emamba.train.record import claim_folder

__all__ = ["Budget", "search_mars"]


@dataclass(frozen=True)
class Budget:
    """What a search may spend: trials, epochs a trial, parameters a candidate."""

    trials: int = 20
    epochs: int = 8
    parameters: int = 17_229


def search_mars(
    data: TrainingData,
    out: Path,
    budget: Budget,
    progress: Progress,
    report: Callable[[int, dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Try `budget.trials` more candidates in `<out>/study.db`; returns all finished, best first.

    Raises `OtherRun` if that study has other data, epochs or size limit. Each trial has `config`,
    `parameters` and the mirror's held-out `rmse_cm`; `report` is called after each with its number
    and that record.
    """
    limits = {"epochs": budget.epochs, "parameters": budget.parameters}
    claim_folder(out, {**limits, **data.identity})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{out / 'study.db'}",
        study_name="mars",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=0),
    )

    # The shipped sizes are the first candidate, so that every study has them to compare with.
    names = ("d_model", "n_layer", "d_state", "d_conv", "expand", "dt_rank", "patch", "head_width")
    shipped = {name: getattr(MARS_CONFIG, name) for name in names}
    study.enqueue_trial(shipped, skip_if_exists=True)

    def objective(trial: optuna.Trial) -> float:
        config = _suggest(trial)
        size = count_parameters(EMamba(config))
        trial.set_user_attr("config", config.to_json())
        trial.set_user_attr("parameters", size)
        if size > budget.parameters:
            raise optuna.TrialPruned
        for past in study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
            if past.params == trial.params and past.value is not None:
                return past.value
        return _score(config, data, out / f"trial{trial.number}", budget, progress)

    def after(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        report(trial.number, _record(trial))

    study.optimize(objective, n_trials=budget.trials, callbacks=[after])
    finished = [t for t in study.trials if t.value is not None]
    return [_record(t) for t in sorted(finished, key=lambda t: t.value or 0.0)]


def _suggest(trial: optuna.Trial) -> ModelConfig:
    return dataclasses.replace(
        MARS_CONFIG,
        d_model=trial.suggest_int("d_model", 12, 28, step=4),
        n_layer=trial.suggest_int("n_layer", 1, 3),
        d_state=trial.suggest_categorical("d_state", [2, 4, 8, 16]),
        d_conv=trial.suggest_int("d_conv", 2, 4),
        expand=trial.suggest_int("expand", 1, 2),
        dt_rank=trial.suggest_int("dt_rank", 1, 2),
        patch=trial.suggest_categorical("patch", [1, 2, 4]),
        head_width=trial.suggest_int("head_width", 8, 40, step=8),
    )


def _score(
    config: ModelConfig, data: TrainingData, folder: Path, budget: Budget, progress: Progress
) -> float:
    """Held-out RMSE (cm) of the mirror after a short training."""
    schedule = Schedule(epochs=budget.epochs, lr=6e-3, evaluate_every=budget.epochs)
    recipe = MarsRecipe(config=config, teachers=0, float_schedule=schedule)
    run = MarsRun(data, recipe, folder, progress)
    network = run.train_float()
    fit_tables(network, run.calibration_maps())
    model = to_integer_model(network, calibrate(network, run.calibration_maps()))
    joints = predict_integers(model, data.task, data.held_out.features)
    return float(pose_report(joints, data.held_out)["rmse_cm"])


def _record(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {**trial.user_attrs, "rmse_cm": trial.value}
