"""Search and ablation on made-up data: the machinery, not the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emamba.config import ModelConfig
from emamba.model.norm import NORMS
from emamba.search.mars import Budget, search_mars
from emamba.train.ablate import compare_norms
from emamba.train.mars import MARS_CONFIG, MarsRecipe
from emamba.train.mars_data import TrainingData, read_training_data
from made_up_mars import write_data


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    write_data(tmp_path / "data")
    return read_training_data(tmp_path / "data")


def silent(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
    """No progress display."""


def test_a_search_is_ranked_by_integers_and_can_be_continued(
    data: TrainingData, tmp_path: Path
) -> None:
    seen: list[int] = []
    records: list[dict[str, Any]] = []

    def report(number: int, record: dict[str, Any]) -> None:
        seen.append(number)
        records.append(record)

    budget = Budget(trials=3, epochs=1, parameters=40_000)
    search_mars(data, tmp_path / "study", budget, silent, report)
    found = search_mars(data, tmp_path / "study", Budget(1, 1, 40_000), silent, report)
    assert seen == [0, 1, 2, 3]
    assert records[0]["config"] == MARS_CONFIG.to_json()
    assert found
    errors = [record["rmse_cm"] for record in found]
    assert errors == sorted(errors)
    for record in found:
        ModelConfig.from_json(record["config"])
        assert record["parameters"] <= 40_000


def test_candidates_over_the_budget_are_not_trained(data: TrainingData, tmp_path: Path) -> None:
    records: list[dict[str, Any]] = []
    found = search_mars(
        data,
        tmp_path / "study",
        Budget(trials=2, epochs=1, parameters=10),
        silent,
        lambda _, record: records.append(record),
    )
    assert found == []
    assert [record["rmse_cm"] for record in records] == [None, None]


def test_every_norm_is_compared(data: TrainingData, tmp_path: Path) -> None:
    found = compare_norms(data, MarsRecipe(), 1, tmp_path / "ablate", silent)
    assert set(found) == set(NORMS)
    assert all(errors["rmse_cm"] > 0 for errors in found.values())
