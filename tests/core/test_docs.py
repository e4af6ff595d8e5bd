"""Documentation that cannot rot quietly: links, commands, and the numbers it repeats."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from emamba.commands import app
from emamba.engines import MirrorEngine
from emamba.fixed.model import ACTIVATION_WIDTHS, BLOCK_WIDTHS
from emamba.package import find_packages, load_package

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for folder in ("", "docs", "docs/decisions", "hls", "overlays", "client/emamba_client/samples")
    for page in (ROOT / folder).glob("*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    assert set(re.findall(r"bin/emamba ([a-z]+)", text)) <= commands
    assert set(re.findall(r"`emamba ([a-z]+)", text)) <= commands
    assert set(re.findall(r"^    make ([a-z][a-z-]*)", text, re.MULTILINE)) <= targets


def test_every_format_has_its_width_in_the_numbers_page() -> None:
    table = (ROOT / "docs" / "numbers.md").read_text().split("## Three operations")[0]
    stated = {}
    for row in re.findall(r"^\| (.+?) \| (\d+)", table, re.MULTILINE):
        stated |= {name: int(row[1]) for name in re.findall(r"`([^`]+)`", row[0])}
    assert stated == ACTIVATION_WIDTHS | BLOCK_WIDTHS


def test_the_example_of_classifying_is_what_the_model_answers() -> None:
    page = (ROOT / "docs" / "classify.md").read_text()
    picture = re.search(r"--data-binary @(\S+)", page)
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)
    assert picture is not None
    assert example is not None
    stated = json.loads(example[1])
    package = load_package(ROOT / "models" / stated["model"] / stated["version"])
    pixels = np.asarray(Image.open(ROOT / picture[1])).reshape(1, *package.task.shape)
    row = package.decode(MirrorEngine(package.model).run(package.encode(pixels)))[0]
    likeliest = np.argsort(-row)[: len(stated["predictions"][0]["top"])]
    assert stated["predictions"][0]["top"] == [
        {"class": package.task.classes[at], "probability": round(row[at], 3)} for at in likeliest
    ]


def test_readme_repeats_the_packages_accuracy() -> None:
    package = load_package(find_packages(ROOT / "models")[-1])
    readme = (ROOT / "README.md").read_text()
    for engine, label in (("float", "float, PyTorch"), ("mirror", "integers, mirror")):
        row = re.search(rf"\| {label} \| .*? \| ([\d.]+) \| ([\d.]+) \|", readme)
        assert row is not None, label
        # Tolerance: two decimals here, four in the package.
        for text, key in zip(row.groups(), ("mae_cm", "rmse_cm"), strict=True):
            assert abs(float(text) - package.accuracy[engine][key]) <= 0.0051, (label, key)
    assert f"| {package.model.n_parameters:,} (" in readme


def test_the_run_record_is_the_shipped_packages() -> None:
    package = load_package(find_packages(ROOT / "models")[-1])
    name = f"{package.name}-{package.version}.json"
    record = json.loads((ROOT / "docs" / "results" / name).read_text())
    assert record["test"]["mirror"] == package.accuracy["mirror"]
    assert record["git_revision"] == package.provenance["git_revision"]


def test_figures_of_image_networks_are_their_runs() -> None:
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/images.md"))
    for folder in find_packages(ROOT / "models"):
        package = load_package(folder)
        if "calibration_error" not in package.accuracy["mirror"]:
            continue
        results = ROOT / "docs" / "results" / f"{package.name}-{package.version}.json"
        test = json.loads(results.read_text())["test"]
        raw, mirror = test["mirror, temperature 1"], test["mirror"]
        assert mirror["accuracy"] == package.accuracy["mirror"]["accuracy"]
        size = f"{package.model.n_parameters:,}"
        shares = f"{test['float']['accuracy']:.2%} | {mirror['accuracy']:.2%}".replace("%", " %")
        errors = f"{raw['calibration_error']:.4f}, {mirror['calibration_error']:.4f}"
        name = f"`{package.name}`" + (" (JPEG)" if "JPEG" in package.accuracy["split"] else "")
        assert f"| {name} | {size} | {shares} | {errors} |" in page
        share = shares.split(" | ")[1]
        assert f"| `{package.name}` | {size} | {share} |" in readme


def test_figures_beside_other_networks_are_the_benchs() -> None:
    page = (ROOT / "docs" / "images.md").read_text()
    results = json.loads((ROOT / "docs" / "results" / "images.json").read_text())
    for found in results["data"].values():
        for row in found["rows"]:
            ours = row["family"] == "eMamba"
            name = f"`{row['size']}`" if ours else f"{row['family']}, {row['size']}"
            accuracy = f"{row['accuracy']:.2%}".replace("%", " %")
            times = " | ".join(f"{row[f'latency_us_batch_{batch}']:,.0f}" for batch in (1, 64))
            assert f"| {name} | {row['parameters']:,} | {accuracy} | {times} |" in page
        for row in found["matched"]:
            accuracy = f"{row['accuracy']:.2%}".replace("%", " %")
            line = re.search(rf"^\| `{row['ours']}` \| {accuracy} \|.*$", page, re.MULTILINE)
            assert line is not None
            assert f" {row['times_ours']:.2f} " in line[0]


def test_the_drivers_cost_is_the_benchs() -> None:
    rows = json.loads((ROOT / "docs" / "results" / "driver.json").read_text())["rows"]
    page = (ROOT / "docs" / "emulator.md").read_text()
    for row in rows:
        costs = (f"{row[name]:,.1f} us" for name in ("driver_us", "pynq_us", "guard_every_us"))
        assert f"| {row['batch']} | {' | '.join(costs)} |" in page
    first = rows[0]
    readme = f"{first['driver_us']:.1f} us; pynq's own DMA class {first['pynq_us']:.1f} us"
    assert readme in (ROOT / "README.md").read_text()


def test_the_image_has_every_folder_that_the_wheel_takes() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    section = project.split("[tool.hatch.build.targets.wheel.force-include]")[1].split("[tool")[0]
    taken = {path.split("/")[0] for path in re.findall(r'^"(.+?)" =', section, re.MULTILINE)}
    dockerfile = (ROOT / "service" / "Dockerfile").read_text()
    assert taken == {"hls", "overlays"}
    assert taken <= set(re.findall(r"^COPY (\w+) ", dockerfile, re.MULTILINE))


def test_the_pages_figures_are_the_benchs() -> None:
    figures = json.loads((ROOT / "docs" / "results" / "page.json").read_text())
    page = (ROOT / "docs" / "page.md").read_text()
    turns = figures["radar_to_page"].values()
    told = [f"p50 {turn['p50_ms']} ms, p99 {turn['p99_ms']} ms" for turn in turns]
    told.append(f"{figures['viewers']['frames_seen']:,} frames seen, 0 missed, 0 dropped")
    told.append(f"{figures['first_visit']['page_bytes']:,} bytes")
    told.append(f"{figures['first_visit']['first_contentful_paint_ms']} ms; a skeleton moves")
    told.append(f"{figures['fresh_clone']['moving_s']} s (`--fresh-clone`)")
    assert [one for one in told if one not in page] == []
    assert told[0] in (ROOT / "README.md").read_text()
