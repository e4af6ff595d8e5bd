"""Image training: random changes, targets, one whole tiny run and its evaluation."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emamba.commands import app
from emamba.data import DataError
from emamba.model import EMamba, count_parameters
from emamba.package import PackageError, load_package
from emamba.quantise import calibrate, fit_tables, to_integer_model
from emamba.train.checkpoint import load_checkpoint
from emamba.train.cnn import PictureTeacher
from emamba.train.image_recipes import RECIPES
from emamba.train.image_study import VARIANTS, StudyNetwork, Variant, study_images, token_order
from emamba.train.images import ImageRecipe, ImageRun, train_images
from emamba.train.images_data import ImageAugmentation, read_image_data
from emamba.train.loop import Schedule
from emamba.train.record import OtherRun
from made_up_images import idx, write_fashion
from made_up_images import pictures as made_up

MARS_CHECKPOINT = (
    Path(__file__).resolve().parents[2] / "models" / "mars" / "1" / "float.safetensors"
)
TINY = Schedule(epochs=1, lr=3e-3, batch=64)
RECIPE = dataclasses.replace(
    RECIPES["fashion-mnist-small"],
    teacher_schedule=TINY,
    float_schedule=TINY,
    integers_schedule=TINY,
    teacher_width=8,
    held_out=60,
)


def silent(stage: str, epoch: int, epochs: int, row: dict[str, float]) -> None:
    pass


def pictures(count: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 9, 7, 3), generator=generator, dtype=torch.uint8)


def test_no_augmentation_changes_nothing() -> None:
    nothing = ImageAugmentation(shift=0, mirror=False)
    assert torch.equal(nothing.change(pictures(), nothing.draw(64)), pictures())


def test_pictures_are_moved_and_mirrored_whole() -> None:
    """Each changed picture is a window of the padded original, or of its mirror image."""
    change, before = ImageAugmentation(shift=2), pictures()
    changed = change.change(before, change.draw(len(before)))
    moves = set()
    for old, new in zip(before.numpy(), changed.numpy(), strict=True):
        padded = np.pad(old, ((2, 2), (2, 2), (0, 0)))
        found = [
            (y, x, turned)
            for y in range(5)
            for x in range(5)
            for turned in (False, True)
            if np.array_equal(
                new, padded[y : y + 9, x : x + 7][:, ::-1] if turned else padded[y:, x:][:9, :7]
            )
        ]
        assert len(found) == 1
        moves.add(found[0])
    assert len({move[:2] for move in moves}) > 10
    assert {move[2] for move in moves} == {False, True}


def test_every_way_to_change_a_picture_is_another() -> None:
    change = ImageAugmentation(shift=1)
    ways = change.change(pictures(1).expand(18, -1, -1, -1), torch.arange(18))
    assert change.count == len({way.numpy().tobytes() for way in ways}) == 18


def test_held_out_rows_are_not_learned_from(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = read_image_data("fashion-mnist", tmp_path, held_out=50)
    learned = {image.numpy().tobytes() for image in data.images}
    assert (len(data.images), len(data.held_images)) == (250, 50)
    assert not learned & {image.numpy().tobytes() for image in data.held_images}
    normalised = data.normalise(data.images)
    assert abs(float(normalised.mean())) < 1e-3
    assert abs(float(normalised.std()) - 1) < 1e-3


def test_a_split_with_nothing_left_to_learn_from_is_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    with pytest.raises(DataError, match="more than the 300 images held out, not 300"):
        read_image_data("fashion-mnist", tmp_path, held_out=300)


def test_the_teacher_has_its_size() -> None:
    """6.57 M parameters at its author's width, 64."""
    assert count_parameters(PictureTeacher(3, 10, 64)) == 6_573_130
    assert PictureTeacher(1, 10, 4)(torch.zeros(2, 28, 28, 1)).shape == (2, 10)


def test_sizes_of_the_recipes() -> None:
    """The bars: at most 60 k and 15 k parameters for Fashion-MNIST, 250 k for CIFAR-10."""
    sizes = {name: count_parameters(EMamba(recipe.config)) for name, recipe in RECIPES.items()}
    assert sizes["fashion-mnist"] <= 60_000
    assert sizes["fashion-mnist-small"] <= 15_000
    assert max(sizes.values()) == sizes["cifar10"] <= 250_000


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with `data` and a whole run of the smallest recipe in `out`."""
    folder = tmp_path_factory.mktemp("images")
    write_fashion(folder / "data")
    record = train_images(folder / "data", folder / "out", "tiny", "1", RECIPE, silent)
    return folder, record


def test_a_whole_run_leaves_checkpoint_package_and_record(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, record = run
    out = folder / "out"
    assert json.loads((out / "tiny" / "record.json").read_text()) == record
    package = load_package(out / "packages" / "tiny" / "1")
    assert package.accuracy["frames"] == 60
    assert package.accuracy["mirror"]["accuracy"] == record["test"]["mirror"]["accuracy"]
    checkpoint = load_checkpoint(out / "tiny" / "float.safetensors")
    assert checkpoint.sha256 == package.provenance["float_sha256"]
    assert list(record["held_out"]) == [
        "exact",
        "fitted tables",
        "integers, calibrated",
        "integers, fine-tuned",
        "float twin of the integers",
    ]
    with pytest.raises(PackageError, match="must not exist yet"):
        train_images(folder / "data", out, "tiny", "1", RECIPE, silent)


@pytest.mark.parametrize("lr", [0.0, 3e-3])
def test_the_package_is_the_checkpoints_rounding(tmp_path: Path, lr: float) -> None:
    """Whichever integers are kept: with no learning rate fine-tuning gains nothing."""
    write_fashion(tmp_path / "data")
    recipe = dataclasses.replace(RECIPE, integers_schedule=dataclasses.replace(TINY, lr=lr))
    record = train_images(tmp_path / "data", tmp_path, "tiny", "1", recipe, silent)
    calibrated, tuned = (
        record["held_out"][f"integers, {which}"]["accuracy"]
        for which in ("calibrated", "fine-tuned")
    )
    assert (tuned > calibrated) == (lr > 0)
    package = load_package(tmp_path / "packages" / "tiny" / "1").model
    network = load_checkpoint(tmp_path / "tiny" / "float.safetensors").network
    rounded = to_integer_model(network, package.formats)
    for name, tensor in rounded.tensors.items():
        np.testing.assert_array_equal(tensor, package.tensors[name], err_msg=name)
    for name, table in rounded.tables.items():
        x = np.arange(-table.x_format.max_int, table.x_format.max_int + 1)
        np.testing.assert_array_equal(table.evaluate(x), package.tables[name].evaluate(x))


def test_a_run_refused_for_its_teacher_claims_nothing(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, _ = run
    shutil.copytree(folder / "out" / "teacher", tmp_path / "teacher")
    other = dataclasses.replace(RECIPE, teacher_width=16)
    with pytest.raises(OtherRun):
        train_images(folder / "data", tmp_path, "other", "1", other, silent)
    assert not (tmp_path / "other").exists()


def test_a_run_that_stops_at_its_last_step_goes_on(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Where packages go there is a file."""
    folder, record = run
    shutil.copytree(folder / "out", tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "packages")
    (tmp_path / "out" / "packages").touch()
    with pytest.raises(NotADirectoryError):
        train_images(folder / "data", tmp_path / "out", "tiny", "1", RECIPE, silent)
    (tmp_path / "out" / "packages").unlink()
    again = train_images(folder / "data", tmp_path / "out", "tiny", "1", RECIPE, silent)
    assert again["test"] == record["test"]
    left = tmp_path / "out" / "packages" / "tiny" / "1"
    assert sorted(path.name for path in left.iterdir()) == sorted(
        path.name for path in (folder / "out" / "packages" / "tiny" / "1").iterdir()
    )


def test_integers_are_tuned_in_float32(tmp_path: Path) -> None:
    """Also where everything before was in bfloat16."""
    write_fashion(tmp_path)
    data = read_image_data("fashion-mnist", tmp_path, held_out=50)
    tuned = []
    for half in (False, True):
        run = ImageRun(data, RECIPE, tmp_path / str(half), tmp_path / "teacher", silent)
        run.half = half
        torch.manual_seed(0)
        network = EMamba(RECIPE.config)
        fit_tables(network, run.calibration_maps())
        tuned.append(run.tune_integers(network, calibrate(network, run.calibration_maps())))
    first, second = (model.tensors for model in tuned)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_evaluate_prints_accuracy(run: tuple[Path, dict[str, Any]]) -> None:
    folder, record = run
    data, package = str(folder / "data"), str(folder / "out" / "packages" / "tiny" / "1")
    checkpoint = str(folder / "out" / "tiny" / "float.safetensors")
    for model, name in ((package, "mirror"), (checkpoint, "float")):
        result = CliRunner().invoke(app, ["evaluate", model, "--data", data, "--json"])
        report = json.loads(result.stdout)
        assert report["accuracy"] == record["test"][name]["accuracy"]
        assert report["frames"] == 60
    text = CliRunner().invoke(app, ["evaluate", package, "--data", data]).stdout
    assert f"accuracy {record['test']['mirror']['accuracy']:.4f}" in text
    assert "Ankle boot" in text


def test_evaluate_names_classes_where_others_have_no_images(
    run: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Only images of the class that is mistaken most often."""
    folder, record = run
    before = record["test"]["mirror"]
    mistakes = np.array(before["confusion"])
    np.fill_diagonal(mistakes, 0)
    label, answer = np.unravel_index(mistakes.argmax(), mistakes.shape)
    images, labels = made_up(60, (28, 28, 1), 1)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[labels == label, :, :, 0]))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(labels[labels == label]))
    package = str(folder / "out" / "packages" / "tiny" / "1")
    result = CliRunner().invoke(app, ["evaluate", package, "--data", str(tmp_path)])
    (line,) = (line for line in result.stdout.splitlines() if before["classes"][label] in line)
    assert f"{before['classes'][answer]} ({mistakes.max()})" in line


def test_evaluate_refuses_a_split_that_is_not_there(run: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = run
    package = str(folder / "out" / "packages" / "tiny" / "1")
    result = CliRunner().invoke(
        app, ["evaluate", package, "--data", str(folder / "data"), "--split", "validate"]
    )
    assert "Fashion-MNIST has splits train and test, not 'validate'" in str(result.exception)


def test_compare_takes_the_checkpoint_that_the_package_was_made_from(
    run: tuple[Path, dict[str, Any]],
) -> None:
    folder, _ = run
    package = str(folder / "out" / "packages" / "tiny" / "1")
    for checkpoint, known in (
        (folder / "out" / "tiny" / "float.safetensors", True),
        (MARS_CHECKPOINT, False),
    ):
        result = CliRunner().invoke(
            app, ["compare", str(checkpoint), package, "--data", str(folder / "data"), "--json"]
        )
        if known:
            assert "patch_embed" in {row["stage"] for row in json.loads(result.stdout)["stages"]}
        else:
            assert f"{package} must have been made from {checkpoint}" in str(result.exception)


def test_targets_blend_labels_and_the_teachers_answers(tmp_path: Path) -> None:
    """With the teacher alone, a network that gives the teacher's logits has nothing to learn."""
    write_fashion(tmp_path)
    data = read_image_data("fashion-mnist", tmp_path, held_out=50)
    recipe: ImageRecipe = dataclasses.replace(
        RECIPE, teacher_share=1.0, augmentation=ImageAugmentation(shift=0, mirror=False)
    )
    run = ImageRun(data, recipe, tmp_path / "a", tmp_path / "teacher", silent)
    run.train_teacher()
    twin = PictureTeacher(1, 10, recipe.teacher_width).eval()
    twin.load_state_dict(torch.load(tmp_path / "teacher" / "teacher.pt")["best"])
    assert float(run.loss(twin, torch.arange(20)).detach()) == pytest.approx(0, abs=1e-6)
    assert float(run.loss(EMamba(recipe.config), torch.arange(20)).detach()) > 0.01


def test_a_teacher_answers_each_view_as_a_network_sees_it(tmp_path: Path) -> None:
    """No more views than asked for, none of them twice; a resumed run has the same."""
    write_fashion(tmp_path)
    data = read_image_data("fashion-mnist", tmp_path, held_out=50)
    recipe = dataclasses.replace(
        RECIPE, teacher_views=3, augmentation=ImageAugmentation(shift=1), softening=3.0
    )
    run = ImageRun(data, recipe, tmp_path / "a", tmp_path / "teacher", silent)
    run.train_teacher()
    answers = run.answers
    assert answers is not None
    assert answers.ways.shape == (250, 3)
    assert all(len(set(ways)) == 3 for ways in answers.ways.tolist())
    teacher = PictureTeacher(1, 10, recipe.teacher_width).eval()
    teacher.load_state_dict(torch.load(tmp_path / "teacher" / "teacher.pt")["best"])
    rows = torch.arange(250)
    ways, answered = answers.draw(rows)
    with torch.no_grad():
        seen = recipe.augmentation.change(data.images, ways)
        logits = run.logits(teacher, data.normalise(seen))
    assert torch.allclose(torch.log_softmax(logits / 3, 1), answered, atol=1e-5)
    assert len(ways.unique()) > 6
    again = ImageRun(data, recipe, tmp_path / "a", tmp_path / "teacher", silent)
    again.train_teacher()
    assert again.answers is not None
    assert torch.equal(again.answers.ways, answers.ways)
    assert torch.equal(again.answers.log_probabilities, answers.log_probabilities)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_of_the_study_learns(variant: Variant) -> None:
    config = dataclasses.replace(RECIPE.config, n_layer=4, **variant.sizes)
    network = StudyNetwork(config, variant)
    network.set_fused(True)
    maps = torch.randn(3, *config.input_shape)
    network(maps).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_the_first_variant_is_what_ships() -> None:
    torch.manual_seed(0)
    network = StudyNetwork(RECIPE.config, VARIANTS[0])
    shipped = EMamba(RECIPE.config)
    shipped.load_state_dict(network.state_dict())
    maps = torch.randn(3, *RECIPE.config.input_shape)
    assert torch.equal(network(maps), shipped(maps))


def test_orders_of_tokens() -> None:
    config = dataclasses.replace(
        RECIPE.config, input_height=8, input_width=12, patch=4
    )  # 2 x 3 tokens
    ways = {"rows": [0, 1, 2, 3, 4, 5], "columns": [0, 3, 1, 4, 2, 5]}
    for way, want in ways.items():
        assert token_order(config, way).tolist() == want
        assert token_order(config, f"{way} back").tolist() == want[::-1]


def test_the_study_reports_each_variant(tmp_path: Path) -> None:
    write_fashion(tmp_path / "data")
    data = read_image_data("fashion-mnist", tmp_path / "data", 50)
    rows: list[dict[str, Any]] = []
    found = study_images(data, RECIPE, 128, tmp_path / "out", silent, rows.append)
    assert found == rows
    assert [row["variant"] for row in found] == [variant.name for variant in VARIANTS]
    assert all(0 <= row["accuracy"] <= 1 for row in found)
