"""One resumable optimisation run: AdamW, or Muon beside it, warm-up and cosine, averaged weights,
held-out choice."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emamba.train.checkpoint import CheckpointError
from emamba.train.muon import Muon

__all__ = ["Fit", "Progress", "Schedule", "fit", "save"]


class Progress(Protocol):
    """Where a run reports: one call an epoch."""

    def __call__(self, stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None: ...


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn.

    `ema` is the decay of the averaged weights. With `muon` the matrices of linear layers, and of
    convolutions of all channels, are learnt by Muon, all else by AdamW, at one learning rate.
    """

    epochs: int
    lr: float
    batch: int = 128
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema: float = 0.999
    clip: float = 1.0
    evaluate_every: int = 1
    muon: bool = False

    def lr_at(self, step: int, steps: int) -> float:
        """Linear warm-up over the first share, then half a cosine to zero."""
        rising = max(1, round(self.warmup * steps))
        if step < rising:
            return self.lr * (step + 1) / rising
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@dataclass(frozen=True)
class Fit:
    """What one run optimises.

    `loss(network, rows)` is the mean loss on the training rows given by index; `evaluate(network)`
    gives held-out metrics, of which `choose_by` is minimised.
    """

    stage: str
    network: nn.Module
    rows: int
    loss: Callable[[nn.Module, Tensor], Tensor]
    evaluate: Callable[[nn.Module], dict[str, float]]
    choose_by: str = "rmse_cm"


def fit(
    job: Fit,
    schedule: Schedule,
    folder: Path,
    seed: int,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict[str, float]]:
    """Optimise `job.network` in place, ending with its best averaged weights; returns the history.

    State is kept in `<folder>/<stage>.pt` after every epoch: an interrupted run continues where
    it stopped and gives the weights that an uninterrupted one gives. Each row of the history has
    `epoch`, `loss`, `seconds` and, where evaluated, the held-out metrics. Raises
    `CheckpointError` if the saved state is damaged.
    """
    run = _Run(job, schedule, seed, clock)
    path = folder / f"{job.stage}.pt"
    if path.exists():
        run.restore(_load(path))
    while run.epoch < schedule.epochs:
        row = run.one_epoch()
        progress(job.stage, run.epoch, schedule.epochs, row)
        save(run.state(), path)
    job.network.load_state_dict(run.best)
    job.network.eval()
    return run.history


def _load(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path}: must be a stage's saved state, but is damaged; "
            "remove it to train the stage anew"
        ) from error
    return state


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state` at once or not at all: an interruption leaves the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".tmp")
    torch.save(state, fresh)
    fresh.replace(path)


class _Run:
    def __init__(self, job: Fit, schedule: Schedule, seed: int, clock: Callable[[], float]) -> None:
        torch.manual_seed(seed)
        self.job, self.schedule, self.clock = job, schedule, clock
        self.optimisers = _optimisers(job.network, schedule)
        self.average = {k: v.detach().clone() for k, v in job.network.state_dict().items()}
        self.best = {k: v.clone() for k, v in self.average.items()}
        self.epoch = 0
        self.history: list[dict[str, float]] = []

    def one_epoch(self) -> dict[str, float]:
        started = self.clock()
        job, schedule = self.job, self.schedule
        batches = torch.split(torch.randperm(job.rows), schedule.batch)
        steps = schedule.epochs * len(batches)
        job.network.train()
        total = 0.0
        for index, rows in enumerate(batches):
            step = self.epoch * len(batches) + index
            loss = job.loss(job.network, rows)
            job.network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(job.network.parameters(), schedule.clip)
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = schedule.lr_at(step, steps)
                optimiser.step()
            self._average(step)
            total += loss.item() * len(rows)
        self.epoch += 1
        return self._record(total / job.rows, started)

    def _average(self, step: int) -> None:
        decay = min(self.schedule.ema, (1 + step) / (10 + step))
        live = self.job.network.state_dict()
        floats = [key for key, value in live.items() if value.is_floating_point()]
        torch._foreach_lerp_(
            [self.average[key] for key in floats], [live[key] for key in floats], 1 - decay
        )

    def _record(self, loss: float, started: float) -> dict[str, float]:
        row = {"epoch": float(self.epoch), "loss": loss}
        last = self.epoch == self.schedule.epochs
        if last or self.epoch % self.schedule.evaluate_every == 0:
            row |= self._held_out()
            scores = [r[self.job.choose_by] for r in self.history if self.job.choose_by in r]
            if not scores or row[self.job.choose_by] < min(scores):
                self.best = {k: v.clone() for k, v in self.average.items()}
        row["seconds"] = self.clock() - started
        self.history.append(row)
        return row

    def _held_out(self) -> dict[str, float]:
        """Metrics of the averaged weights."""
        network = self.job.network
        live = {k: v.clone() for k, v in network.state_dict().items()}
        network.load_state_dict(self.average)
        network.eval()
        with torch.no_grad():
            metrics = self.job.evaluate(network)
        network.load_state_dict(live)
        return metrics

    def state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "history": self.history,
            "network": self.job.network.state_dict(),
            "average": self.average,
            "best": self.best,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "rng": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.epoch, self.history = state["epoch"], state["history"]
        self.job.network.load_state_dict(state["network"])
        # Copied, as the network may lie on another device than a saved state.
        for kept, mine in ((state["average"], self.average), (state["best"], self.best)):
            for key, value in mine.items():
                value.copy_(kept[key])
        for optimiser, kept in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(kept)
        torch.set_rng_state(state["rng"])


def _optimisers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """AdamW, which decays all but vectors, and after it Muon where the schedule says so."""
    matrices = _matrices(network) if schedule.muon else []
    taken = {id(p) for p in matrices}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in taken]
    decay = schedule.weight_decay
    groups = [
        {"params": [p for p in others if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimisers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=schedule.lr)]
    if matrices:
        optimisers.append(Muon(matrices, lr=schedule.lr, weight_decay=decay))
    return optimisers


def _matrices(network: nn.Module) -> list[Tensor]:
    """Weights that mix many values into many: of layers, and of convolutions of all channels."""
    mixing = [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    weights = [m.weight for m in mixing if getattr(m, "groups", 1) == 1]
    # Nearly a vector, a narrow matrix has no directions to even out.
    return [w for w in weights if w.requires_grad and min(w.flatten(1).shape) > 8]
