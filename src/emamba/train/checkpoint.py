"""Float checkpoints: one `.safetensors` file with the network's tensors and what they mean."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emamba.config import ModelConfig
from emamba.model import EXP, SILU, EMamba, PiecewiseLinear
from emamba.tasks import Task, task_from_json

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "save_checkpoint"]


class CheckpointError(Exception):
    """A file that is not a float checkpoint of ours; the message names it and the reason."""


@dataclass(frozen=True)
class Checkpoint:
    """A float network, its task and the record of the run that made it."""

    network: EMamba
    task: Task
    provenance: dict[str, Any]
    sha256: str


def save_checkpoint(path: Path, network: EMamba, task: Task, provenance: dict[str, Any]) -> None:
    """Write the network; exact or piecewise-linear tables and the norm are kept as they are."""
    about = {
        "config": network.config.to_json(),
        "norm": network.norm,
        "tables": {name: type(table).__name__ for name, table in network.tables.items()},
        "task": task.to_json(),
        "provenance": provenance,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path, metadata={"emamba": json.dumps(about)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; raises `CheckpointError` for a missing, damaged or foreign file."""
    if not path.is_file():
        raise CheckpointError(f"{path}: does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads(metadata["emamba"])
        config = ModelConfig.from_json(about["config"])
        network = EMamba(config, about["norm"])
        for spec in (SILU, EXP):
            if about["tables"][spec.name] == PiecewiseLinear.__name__:
                network.tables[spec.name] = PiecewiseLinear(spec)
        network.load_state_dict(tensors)
        task = task_from_json(about["task"], config)
        provenance = about["provenance"]
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: is not a float checkpoint of emamba: {reason}") from error
    network.eval()
    return Checkpoint(network, task, provenance, hashlib.sha256(path.read_bytes()).hexdigest())
