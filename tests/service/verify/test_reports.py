"""The report as JSON, page and terminal text, and that docs/verify.md says the same."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from rich.console import Console

from emamba_service.verify import schema
from emamba_service.verify.energy import Power
from emamba_service.verify.figures import centimetres, energy_mj, micros, per_second
from emamba_service.verify.page import html_page
from emamba_service.verify.schema import Report
from emamba_service.verify.terminal import ProgressDisplay, print_report
from emamba_service.verify.verdict import verify

DOCS = (Path(__file__).parents[3] / "docs" / "verify.md").read_text()
VOID = {"meta", "line", "rect", "circle"}


@pytest.fixture(scope="module")
def hostile() -> str:
    """A name that would break markup of any kind."""
    return "<script>alert('[bold]&')</script>"


@pytest.fixture
def full(request_for, bench, altered, hostile) -> Report:
    """A report with everything in it: differences, missing frames, stages, energy, temperatures.

    The stage that differs is made up: what is looked for is another test's.
    """

    class Meter:
        watts = iter((1.0, 1.5))

        def measure(self, seconds):
            return {hostile: Power(next(self.watts), 0.0123, 30)}

    def alter(call, recorded):
        outputs = recorded.outputs.copy()
        if call == 1:
            outputs[2:, 9] += np.int16(3)
        if call == 4:
            outputs = outputs[1:]
        return replace(recorded, outputs=outputs, stages_s={hostile: 0.001})

    request = request_for(engine_options={"overlay": hostile})
    world = {
        "meter": Meter(),
        "faults": lambda: {hostile: 12_345},
        "temperatures": lambda: {hostile: 51.5},
    }
    report = verify(request, bench(altered(alter, hostile), **world))
    place = {"frame": 100, "stage": hostile, "index": 617, "expected": -118, "got": 119}
    found = [schema.Localised(stream=hostile, differing=1024, **place)]
    comparison = report.comparison.model_copy(update={"localised": found})
    return report.model_copy(update={"comparison": comparison})


@pytest.fixture
def equal(request_for, bench, altered) -> Report:
    return verify(request_for(), bench(altered()))


class Checked(HTMLParser):
    """Counts open elements, keeps texts and what would be loaded."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [name for name, _ in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parsed(report: Report) -> Checked:
    page = html_page(report)
    checked = Checked()
    checked.feed(page)
    checked.close()
    assert checked.open == []
    return checked


def text_of(report: Report, width: int = 200) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width))
    return stream.getvalue()


def summary_figures(report: Report) -> list[str]:
    """The numbers that a reader of the JSON would look for."""
    comparison = report.comparison
    figures = [f"{comparison.mismatches:,}", f"{comparison.compared:,}", f"{comparison.missing:,}"]
    for found in (*comparison.first, *comparison.localised):
        figures += map(str, (found.frame, found.index, found.expected, found.got))
        figures.append(str(found.differing))
    for errors in (report.accuracy.engine, report.accuracy.mirror):
        figures += [centimetres(e) for e in (errors.mae_cm, errors.rmse_cm)] if errors else []
    for row in report.speed.rows:
        figures += [per_second(row.frames_per_s), f"{row.calls:,}"]
        for p in row.latency_us.values():
            figures += map(micros, (p.p50, p.p90, p.p99, p.max))
    figures += [energy_mj(group) for group in report.energy.groups.values()]
    return (
        figures
        + [f"{n:,}" for n in report.ran.engine.faults.values()]
        + [f"{value:.1f}" for value in report.temperatures_c.start.values()]
    )


@pytest.mark.parametrize("which", ["full", "equal"])
def test_page_and_terminal_hold_every_figure(which, request, hostile):
    report = request.getfixturevalue(which)
    page, terminal = " ".join(parsed(report).texts), text_of(report)
    figures = summary_figures(report)
    assert len(figures) > 20
    for text in (page, terminal):
        assert report.summary in text
        assert [figure for figure in figures if figure not in text] == []


@pytest.mark.parametrize("which", ["full", "equal"])
def test_page_loads_nothing_and_runs_nothing(which, request):
    report = request.getfixturevalue(which)
    page, checked = html_page(report), parsed(report)
    assert checked.loads == []
    assert not checked.tags & {"script", "link", "img", "iframe", "object", "base"}
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme:dark" in page
    assert 'name="viewport"' in page


def test_hostile_names_stay_text(full, hostile):
    assert hostile not in html_page(full)
    assert hostile in " ".join(parsed(full).texts)
    assert hostile in text_of(full)


def test_terminal_says_the_verdict_first_and_last(equal, full):
    for report, word in ((equal, "EQUAL"), (full, "DIFFERENT")):
        lines = text_of(report).splitlines()
        assert lines[0] == lines[-1] == f"{word} {report.summary}"
    assert "not measured: no power rails found" in text_of(equal)


@pytest.mark.parametrize(("name", "shown"), [("mirror", 0), ("emulator", 2)])
def test_speed_of_an_emulated_board_is_told_from_a_boards(request_for, bench, altered, name, shown):
    report = verify(request_for(), bench(altered(name=name)))
    tiles = [text for text in parsed(report).texts if re.match("(frames/s|median) at batch", text)]
    assert len(tiles) == 2
    assert sum(tile.endswith(", emulated, on this CPU") for tile in tiles) == shown
    title = "Latency of a call (us) and throughput"
    assert (f"{title}, emulated, on this CPU" in text_of(report)) == bool(shown)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_lines_keep_to_the_width(full, width):
    assert max(map(len, text_of(full, width).splitlines())) <= width


def test_json_is_the_documented_schema(full):
    text = full.model_dump_json()
    assert Report.model_validate_json(text) == full
    document = json.loads(text)
    assert document["schema_version"] == schema.SCHEMA_VERSION
    with pytest.raises(ValidationError):
        Report.model_validate(document | {"more": 1})
    del document["comparison"]
    with pytest.raises(ValidationError):
        Report.model_validate(document)


def documented_rows() -> list[str]:
    parts = [getattr(schema, name) for name in schema.__all__]
    models = [part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)]
    return [
        f"| `{model.__name__}` | `{name}` | {field.description} |"
        for model in models
        for name, field in model.model_fields.items()
    ]


def test_docs_have_a_row_for_every_field():
    rows = [line for line in DOCS.splitlines() if re.match(r"\| `[A-Z]\w+` \| `", line)]
    assert sorted(rows) == sorted(documented_rows())


def test_progress_without_a_terminal_is_lines(capsys):
    with ProgressDisplay(Console(file=io.StringIO())) as progress:
        for done in range(101):
            progress("comparing", done, 100)
        progress("measuring speed", 0, 4)
    assert capsys.readouterr().err == (
        "comparing: 0 of 100\ncomparing: 100 of 100\nmeasuring speed: 0 of 4\n"
    )


def test_progress_on_a_terminal_is_a_bar():
    stream = io.StringIO()
    with ProgressDisplay(Console(file=stream, force_terminal=True, width=80)) as progress:
        progress("comparing", 0, 100)
        progress("comparing", 100, 100)
    assert "100/100" in stream.getvalue()
