"""docs/live.md and the notebook run against the real service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from typer.testing import CliRunner

from emamba_client.cli import app
from service.test_live import Live, finish, start

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "live.md").read_text()
NOTEBOOK = REPOSITORY / "docs" / "pose.ipynb"
DOCUMENTED = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    service = start(REPOSITORY / "tests" / "one_model")
    yield service
    finish(service)


def test_python_examples_run(live, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["live", "--url", live.url, "--count", "5", "--hz", "100", "--record", "walk.npz"]
    assert CliRunner().invoke(app, words).exit_code == 0
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        code = example.replace(DOCUMENTED, live.url)
        exec(compile(code, "docs/live.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "mars mirror" in printed
    assert re.search(r"MAE \d\.\d cm", printed)
    assert "5 frames, (5, 19, 3)" in printed


def test_documented_options_exist():
    shown = CliRunner().invoke(app, ["live", "--help"], env={"COLUMNS": "200"}).output
    for option in set(re.findall(r"--[a-z][a-z-]+", PAGE)):
        assert option in shown, option


def test_notebook_runs(live, monkeypatch):
    monkeypatch.setenv("EMAMBA_URL", live.url)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells), "stored without outputs"
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    texts = [
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert any(re.search(r"MAE \d+\.\d cm", text) for text in texts)
    assert any("50 answers" in text for text in texts)
    assert len(pictures) == 2
