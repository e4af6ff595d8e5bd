"""The training loop: resumable to the bit, augmentation, checkpoints, one whole tiny run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from emamba.package import PackageError, load_package
from emamba.tasks.mars import feature_map
from emamba.train.augment import Augmentation, normalise
from emamba.train.checkpoint import CheckpointError, load_checkpoint
from emamba.train.loop import Fit, Schedule, fit
from emamba.train.mars import MarsRecipe, train_mars
from emamba.train.mars_data import read_training_data
from emamba.train.muon import Muon
from emamba.train.predict import predict, predict_integers
from emamba.train.record import OtherRun
from made_up_mars import write_data
from random_models import MARS_CONFIG, pose_task


def job(network: nn.Module) -> Fit:
    like = next(network.parameters())
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1)).to(like)
    y = x.sum(1, keepdim=True)

    def loss(net: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        noisy = x[rows] + 0.1 * torch.randn(len(rows), 4).to(like)
        return (net(noisy) - y[rows]).square().mean()

    def evaluate(net: nn.Module) -> dict[str, float]:
        return {"rmse_cm": (net(x) - y).square().mean().item()}

    return Fit("toy", network, 50, loss, evaluate)


def train(
    folder: Path, muon: bool, stop_after: int | None = None, dtype: torch.dtype = torch.float32
) -> tuple[nn.Module, list[dict[str, float]]]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 12), nn.Linear(12, 1))
    network.to(dtype)

    def progress(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    schedule = Schedule(epochs=6, lr=0.05, batch=16, muon=muon)
    history = fit(job(network), schedule, folder, 5, progress, clock=lambda: 0.0)
    return network, history


@pytest.mark.parametrize("muon", [False, True])
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path, muon: bool) -> None:
    whole, history = train(tmp_path / "whole", muon)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", muon, stop_after=3)
    resumed, resumed_history = train(tmp_path / "cut", muon)
    # The interruption came before epoch 3 was saved, so it is run again, from the same state.
    assert resumed_history == history
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_saved_run_goes_on_where_its_network_lies(tmp_path: Path) -> None:
    """On another device than it was saved on; another dtype stands in for one."""
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, muon=True, stop_after=3)
    resumed, history = train(tmp_path, muon=True, dtype=torch.float64)
    assert len(history) == 6
    assert {value.dtype for value in resumed.state_dict().values()} == {torch.float64}


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_damaged_state_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    train(tmp_path, muon=False)
    path = tmp_path / "toy.pt"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"toy.pt: must be a stage's saved state.*remove it"):
        train(tmp_path, muon=False)


@pytest.mark.parametrize("muon", [False, True])
def test_muon_moves_a_matrix_in_all_directions_alike(tmp_path: Path, muon: bool) -> None:
    torch.manual_seed(0)
    network = nn.Linear(16, 16, bias=False)
    before = network.weight.detach().clone()
    one, other = (nn.init.orthogonal_(torch.empty(16, 16)) for _ in range(2))
    steep = one @ torch.logspace(0, -1.5, 16).diag() @ other

    def loss(net: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return (steep * network.weight).sum()

    step = Fit("step", network, 1, loss, lambda net: {"rmse_cm": 0.0})
    schedule = Schedule(epochs=1, lr=0.1, weight_decay=0, ema=0, muon=muon)
    fit(step, schedule, tmp_path, 0, lambda *row: None)
    moved = torch.linalg.svdvals(before - network.weight.detach())
    assert (float(moved[0] / moved[-1]) < 3) is muon


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 3, 2, 4)])
def test_muon_is_torchs(shape: tuple[int, ...]) -> None:
    """Tolerance: torch's own evens in bfloat16, 8 bits, five rounds of it; by norm."""
    torch.manual_seed(0)
    start, gradients = torch.randn(shape).flatten(1), torch.randn(3, *shape)
    theirs, ours = nn.Parameter(start.clone()), nn.Parameter(start.reshape(shape).clone())
    both: list[torch.optim.Optimizer] = [
        torch.optim.Muon([theirs], lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw"),
        Muon([ours], lr=0.1, weight_decay=0.3),
    ]
    for gradient in gradients:
        theirs.grad, ours.grad = gradient.flatten(1), gradient.clone()
        for optimiser in both:
            optimiser.step()
    apart = (theirs - ours.flatten(1)).norm() / (theirs - start).norm()
    assert 0 < apart < 0.02


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    schedule = Schedule(epochs=1, lr=1.0, warmup=0.1)
    rates = [schedule.lr_at(step, 100) for step in range(100)]
    assert rates[9] == max(rates) == 1.0
    assert rates[0] == pytest.approx(0.1)
    assert rates[-1] < 0.001


def clouds() -> torch.Tensor:
    rng = np.random.default_rng(0)
    frames = [rng.random((n, 5)).astype(np.float32) + 0.1 for n in (1, 30, 64)]
    return torch.from_numpy(np.stack([feature_map(f).reshape(64, 5) for f in frames]))


def test_no_augmentation_changes_nothing() -> None:
    torch.testing.assert_close(Augmentation()(clouds()), clouds(), rtol=0, atol=0)


def test_augmented_frames_are_still_valid_maps() -> None:
    changed = Augmentation(drop=0.9, jitter_m=0.3, intensity_noise=0.2, doppler_m_s=0.1)(clouds())
    for frame in changed:
        real = frame[:, 4] > 0
        count = int(real.sum())
        assert count >= 1
        assert real[:count].all()
        assert not frame[count:].any()
        assert torch.all(frame[:count, 0].diff() >= 0)


def test_normalise_is_the_tasks_encode() -> None:
    """Tolerance: float32 here, float64 there."""
    got = normalise(clouds(), pose_task()).reshape(-1, 8, 8, 5).numpy()
    want = pose_task().encode(clouds().reshape(-1, 8, 8, 5).numpy())
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_held_out_blocks_are_not_trained_on(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    data = read_training_data(tmp_path / "data")
    held = {frame.tobytes() for frame in data.held_out.features}
    trained = {frame.numpy().tobytes() for frame in data.points.reshape(-1, 8, 8, 5)}
    assert len(data.held_out) == 4 * (8 - 2 * 3)
    assert not held & trained
    assert set(np.unique(data.held_out.subject)) == {1, 2}
    assert len(data.labels) == 160 + 4 * 32
    assert len(data.points) == len(data.labels) + 160


TINY = Schedule(epochs=1, lr=1e-3, batch=64)
RECIPE = MarsRecipe(
    teacher_schedule=TINY, float_schedule=TINY, tables_schedule=TINY, integers_schedule=TINY
)


def test_a_whole_run_leaves_checkpoint_package_record_and_curves(tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    stages = []

    def progress(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
        stages.append(stage)

    out = tmp_path / "run"
    record: dict[str, Any] = train_mars(tmp_path / "data", out, "3", RECIPE, progress)
    assert stages == ["data", "teacher0", "float", "tables", "integers"]
    assert json.loads((out / "record.json").read_text())["held_out"] == record["held_out"]
    assert (out / "curves.png").stat().st_size > 10_000
    package = load_package(out / "packages" / "mars" / "3")
    assert package.accuracy["frames"] == 160
    assert package.provenance["data_sha256"].keys() == {
        "mars_train.npz",
        "mars_validate.npz",
        "mars_train_s1_radar_only.npz",
    }
    checkpoint = load_checkpoint(out / "packages" / "mars" / "3" / "float.safetensors")
    assert checkpoint.sha256 == package.provenance["float_sha256"]
    features = np.stack([feature_map(np.full((3, 5), v, np.float32)) for v in (0.2, 0.9)])
    apart = predict(checkpoint.network, checkpoint.task, features) - predict_integers(
        package.model, package.task, features
    )
    assert np.abs(apart).max() < 0.05
    with pytest.raises(PackageError, match="must not exist yet; choose another version"):
        train_mars(tmp_path / "data", out, "3", RECIPE, progress)
    other = dataclasses.replace(RECIPE, seed=1)
    with pytest.raises(OtherRun, match="holds a run with another recipe, seed or data"):
        train_mars(tmp_path / "data", out, "4", other, progress)


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.safetensors"
    with pytest.raises(CheckpointError, match=r"float.safetensors: does not exist"):
        load_checkpoint(path)
    path.write_bytes(b"\x80\x04 not safetensors")
    with pytest.raises(CheckpointError, match=r"float.safetensors: is not a float checkpoint"):
        load_checkpoint(path)


def test_recipe_is_the_shipped_config() -> None:
    newest = Path(__file__).resolve().parents[2] / "models" / "mars" / "1"
    assert MarsRecipe().config == load_package(newest).model.config
    assert MarsRecipe().config.d_model == MARS_CONFIG.d_model
