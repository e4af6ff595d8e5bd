"""docs/client.md: its examples run, its output is what the commands print, its tables are whole."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

import emamba_client
from emamba_client.cli import app as commands
from emamba_client.command_line import World

PAGE = (Path(__file__).parents[2] / "docs" / "client.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CONSOLE = re.findall(r"```console\n\$ emamba-client (.*?)\n(.*?)```", PAGE, re.DOTALL)


def masked(text: str) -> list[str]:
    """The lines without what depends on the model and the machine: numbers and hashes."""
    text = re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)
    text = re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def test_python_examples_run(
    service: httpx.BaseTransport,
    awaited_service: httpx.AsyncBaseTransport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blocking = partial(emamba_client.Client, transport=service)
    awaited = partial(emamba_client.AsyncClient, transport=awaited_service)
    monkeypatch.setattr(emamba_client, "Client", blocking)
    monkeypatch.setattr(emamba_client, "AsyncClient", awaited)
    monkeypatch.chdir(tmp_path)
    assert len(PYTHON) == 4
    for example in PYTHON:
        exec(compile(example, "docs/client.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "Joint(name='Head', x_m=" in printed
    assert "model must be one of mars, but is 'venus'" in printed
    assert np.load("frame.npy").shape[1] == 5


@pytest.mark.parametrize(("command", "documented"), CONSOLE, ids=[c for c, _ in CONSOLE])
def test_console_examples_print_what_they_show(
    command: str,
    documented: str,
    service: httpx.BaseTransport,
    fake_time: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = emamba_client.sample_frames(subject=1, movement=5)[0]
    np.save(tmp_path / "frame.npy", frame.points)
    monkeypatch.chdir(tmp_path)
    world = World(service, fake_time.clock, fake_time.sleep)
    result = CliRunner().invoke(commands, command.split(), obj=world)
    printed, shown = masked(result.output), masked(documented)
    assert result.exit_code == (1 if documented.startswith("error: ") else 0)
    assert set(shown) - {"..."} <= set(printed)
    assert set(printed) <= set(shown) or "..." in shown
    assert max(map(len, documented.splitlines())) <= 80


def test_every_error_is_in_the_table() -> None:
    errors = emamba_client.errors
    names = [name for name in emamba_client.__all__ if hasattr(errors, name)]
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert set(rows) == set(names) - {"ClientError", "ServiceError", "Problem"}


def test_every_method_is_in_the_table() -> None:
    methods = {name for name in vars(emamba_client.Client) if not name.startswith("_")}
    assert set(re.findall(r"^\| `(\w+)\(", PAGE, re.MULTILINE)) == methods - {"close"}


def test_defaults_are_those_of_the_code() -> None:
    policy = emamba_client.RetryPolicy()
    assert (policy.attempts, policy.total_s, policy.first_delay_s) == (4, 10.0, 0.1)
    for words in ("at most 4 times", "10 s after the first", "double from 0.1 s"):
        assert words in " ".join(PAGE.split())
