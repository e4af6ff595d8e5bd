"""Shadow checks: which answers are checked, what a mismatch leaves behind, and how they end."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import stat
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from emamba.engines import EngineInfo, MirrorEngine, Recorded
from emamba.package import load_package
from emamba_service import shadow as shadow_module
from emamba_service.app import create_app
from emamba_service.metrics import Metrics
from emamba_service.models import LoadedModel
from emamba_service.shadow import ShadowChecker
from emamba_service.shadow_files import (
    Reproducer,
    ReproducerError,
    ReproducerFolder,
    default_folder,
)

MARS = {"model": "mars", "version": "10"}
NOTHING = {"matches": 0, "mismatches": 0, "dropped": 0, "failed": 0}


def eventually(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def shadowed(calling, settings, engines, tmp_path):
    """Starts a service on made-up engines that checks every answer unless told otherwise."""

    def start(source: random.Random | None = None, **changes):
        changes = {"shadow_fraction": 1, "shadow_folder": tmp_path / "kept"} | changes
        app = create_app(settings(**changes), engine_factory=engines, shadow_source=source)
        return calling(app)

    return start


def counts(service) -> dict[str, int]:
    return service.get("/health/ready").json()["shadow"]


def check_count(service, **expected: int) -> None:
    eventually(lambda: sum(counts(service).values()) == sum(expected.values()))
    assert counts(service) == NOTHING | expected


def test_answers_that_match_are_counted(shadowed, points, tmp_path, caplog):
    with shadowed() as service:
        assert service.sample("emamba_shadow_checks_total", result="mismatch", **MARS) == 0
        frame = {"points": points}
        service.pose(frame)
        service.pose({"frames": [frame] * 3})
        check_count(service, matches=2)
        assert service.sample("emamba_shadow_checks_total", result="match", **MARS) == 2
        assert service.sample("emamba_shadow_frames_total", result="match", **MARS) == 4
        assert service.sample("emamba_shadow_frames_total", result="mismatch", **MARS) == 0
    assert not (tmp_path / "kept").exists()
    assert caplog.text == ""


def test_source_chooses_the_fraction(shadowed, points):
    source = random.Random(5)
    source.random()  # seeds the choice of frames
    chosen = sum(source.random() < 0.3 for _ in range(30))
    assert 3 < chosen < 20
    with shadowed(random.Random(5), shadow_fraction=0.3) as service:
        for _ in range(30):
            service.pose({"points": points})
        check_count(service, matches=chosen)


def test_answers_of_another_engine_in_its_place_are_checked_but_the_mirrors_never(
    shadowed, engines, points
):
    with shadowed() as service:
        for name in ("mirror", "native", "mirror"):
            engines.latest.computed_by = name
            service.pose({"points": points})
        check_count(service, matches=1)


@pytest.mark.parametrize("changes", [{"shadow_fraction": 0}, {"engine": "mirror"}])
def test_without_anything_to_check_nothing_is_shown(calling, settings, engines, points, changes):
    factory = None if "engine" in changes else engines
    with calling(create_app(settings(**changes), engine_factory=factory)) as service:
        service.pose({"points": points})
        assert "shadow" not in service.get("/health/ready").json()
        assert "emamba_shadow_checks_total{" not in service.get("/metrics").text
    assert "emamba-shadow" not in {thread.name for thread in threading.enumerate()}


def batch_and_outputs(models_dir: Path, maps: np.ndarray):
    package = load_package(models_dir / "mars" / "10")
    batch = package.encode(maps)
    return package, batch, MirrorEngine(package.model).run(batch)


def maps_of(points, count: int) -> np.ndarray:
    """Feature maps that all differ."""
    maps = np.zeros((count, 8, 8, 5), np.float32)
    maps[:, 0, 0] = points[0]
    maps[:, 0, 0, 4] = np.arange(count) % 200
    return maps


def test_mismatch_is_counted_logged_and_kept(shadowed, engines, models_dir, tmp_path, caplog):
    maps = maps_of([[0.1, 1.8, 0.3, 0.0, 30.0]], 3)
    package, batch, expected = batch_and_outputs(models_dir, maps)
    with shadowed() as service:
        engines.latest.flips = {(1, 17): 0b101, (2, 3): 1}
        frames = [{"features": features} for features in maps.tolist()]
        assert service.pose({"frames": frames}).status_code == 200
        check_count(service, mismatches=1)
        assert service.get("/health/ready").status_code == 200
        assert service.sample("emamba_shadow_checks_total", result="mismatch", **MARS) == 1
        assert service.sample("emamba_shadow_frames_total", result="mismatch", **MARS) == 2
        assert service.sample("emamba_shadow_frames_total", result="match", **MARS) == 1
    (path,) = (tmp_path / "kept").iterdir()
    must, came = int(expected[1, 17]), int(expected[1, 17]) ^ 0b101
    first = (
        "engine board of mars 10 differs from the mirror: "
        f"frame 1, output 17 must be {must}, but is {came}"
    )
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "ERROR",
        f"mismatch 1: {first}; 2 of the 3 frames checked of 3 differ; "
        f"try it again with: emamba-service reproduce {path} --models {models_dir}",
    )
    kept = Reproducer.load(path)
    np.testing.assert_array_equal(kept.batch, batch)
    np.testing.assert_array_equal(kept.expected, expected)
    assert np.argwhere(kept.got != expected).tolist() == [[1, 17], [2, 3]]
    assert kept.about["package_sha256"] == package.sha256
    assert kept.about["engine_opened"] == {"name": "board", "description": "made up for a test"}
    assert (kept.about["frames"], kept.about["frames_checked"]) == ([0, 1, 2], [0, 1, 2])
    assert (kept.about["mismatch"], kept.about["engine"]) == (first, "board")


def test_mismatch_may_end_readiness(shadowed, engines, points, models_dir):
    with shadowed(shadow_trips_ready=True) as service:
        service.pose({"points": points})
        check_count(service, matches=1)
        engines.latest.flips = {(0, 0): 1}
        body = service.pose({"points": points})
        assert body.status_code == 200
        eventually(lambda: service.get("/health/ready").status_code == 503)
        engines.latest.flips = {}
        service.pose({"points": points})
        eventually(lambda: counts(service)["matches"] == 2)
        problem = service.get("/health/ready").json()
        assert problem["type"] == "/problems/not-ready"
        assert re.fullmatch(
            "a shadow check failed: engine board of mars 10 differs from the mirror: "
            r"frame 0, output 0 must be -?\d+, but is -?\d+; "
            "see the log and start the service anew",
            problem["detail"],
        )
        assert problem["shadow"] == NOTHING | {"matches": 2, "mismatches": 1}


def test_of_many_frames_some_are_checked_and_all_are_kept(
    shadowed, engines, models_dir, tmp_path, caplog
):
    maps = maps_of([[0.1, 1.8, 0.3, 0.0, 30.0]], 100)
    _, batch, expected = batch_and_outputs(models_dir, maps)
    with shadowed(max_frames=100, max_body_bytes=1_000_000) as service:
        engines.latest.flips = {(frame, 5): 2 for frame in range(100)}
        service.pose({"frames": [{"features": features} for features in maps.tolist()]})
        check_count(service, mismatches=1)
        assert service.sample("emamba_shadow_frames_total", result="mismatch", **MARS) == 32
    assert "32 of the 32 frames checked of 100 differ" in caplog.text
    (path,) = (tmp_path / "kept").iterdir()
    kept = Reproducer.load(path)
    np.testing.assert_array_equal(kept.batch, batch)
    np.testing.assert_array_equal(kept.expected, expected)
    np.testing.assert_array_equal(kept.got, expected ^ np.where(np.arange(57) == 5, 2, 0))
    checked = kept.about["frames_checked"]
    assert len(checked) == len(set(checked)) == 32
    assert checked == sorted(checked)


def test_beyond_what_is_kept_only_checked_frames_are(
    shadowed, engines, models_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(shadow_module, "KEPT_FRAMES", 40)
    maps = maps_of([[0.1, 1.8, 0.3, 0.0, 30.0]], 41)
    _, batch, expected = batch_and_outputs(models_dir, maps)
    with shadowed(max_frames=41, max_body_bytes=1_000_000) as service:
        engines.latest.flips = {(frame, 5): 2 for frame in range(41)}
        service.pose({"frames": [{"features": features} for features in maps.tolist()]})
        check_count(service, mismatches=1)
    (path,) = (tmp_path / "kept").iterdir()
    kept = Reproducer.load(path)
    frames = kept.about["frames"]
    assert frames == kept.about["frames_checked"]
    np.testing.assert_array_equal(kept.batch, batch[frames])
    np.testing.assert_array_equal(kept.expected, expected[frames])


def test_folder_that_cannot_be_written_is_said_at_the_start_and_at_the_mismatch(
    shadowed, engines, points, tmp_path, caplog
):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "kept"
    with shadowed(shadow_folder=folder) as service:
        assert [record.getMessage() for record in caplog.records] == [
            f"{folder} must be a folder to write to, but is not: mismatches of shadow checks will "
            "be logged, not kept; name another with --shadow-folder"
        ]
        engines.latest.flips = {(0, 0): 1}
        service.pose({"points": points})
        check_count(service, mismatches=1)
        eventually(lambda: len(caplog.records) == 2)
    assert caplog.records[1].getMessage().endswith(f"not kept: {folder}: Not a directory")


def test_command_of_the_log_names_models_and_overlay_for_a_shell(
    shadowed, engines, points, models_dir, tmp_path, caplog, monkeypatch
):
    linked = tmp_path / "all models"
    linked.symlink_to(models_dir)
    monkeypatch.chdir(tmp_path)
    overlay = Path("an overlay")
    with shadowed(models=Path(linked.name), overlay=overlay) as service:
        engines.latest.flips = {(0, 0): 1}
        service.pose({"points": points})
        check_count(service, mismatches=1)
    _, command = caplog.records[0].getMessage().split("try it again with: ")
    (path,) = (tmp_path / "kept").iterdir()
    assert shlex.split(command) == [
        *("emamba-service", "reproduce", str(path)),
        *("--models", str(linked), "--overlay", str(tmp_path / overlay)),
    ]


def test_same_mismatch_is_kept_once(shadowed, engines, points, tmp_path, caplog):
    with shadowed() as service:
        engines.latest.flips = {(0, 0): 1}
        for _ in range(3):
            service.pose({"points": points})
        check_count(service, mismatches=3)
        engines.latest.flips = {(0, 0): 2}
        service.pose({"points": points})
        check_count(service, mismatches=4)
    paths = [record.getMessage().split()[-3] for record in caplog.records]
    assert paths[0] == paths[1] == paths[2] != paths[3]
    assert {*map(Path, paths)} == {*(tmp_path / "kept").iterdir()}


def test_mismatches_beyond_the_first_are_logged_ever_more_rarely(
    shadowed, engines, tmp_path, caplog
):
    with shadowed() as service:
        engines.latest.flips = {(0, 0): 1}
        for features in maps_of([[0.1, 1.8, 0.3, 0.0, 30.0]], 39).tolist():
            service.pose({"features": features})
        check_count(service, mismatches=39)
    numbers = [int(record.getMessage().split()[1].rstrip(":")) for record in caplog.records]
    assert numbers == [*range(1, 17), 32]
    further = [
        record.getMessage().endswith("further ones are logged at 32, 64, ...")
        for record in caplog.records
    ]
    assert further == [number == 16 for number in numbers]
    assert caplog.records[-1].getMessage().endswith("not kept: this process has kept its first 16")
    assert len(list((tmp_path / "kept").iterdir())) == 16


class Bench:
    """A checker whose worker stands at the beginning of each check until `gate` is open."""

    def __init__(self, models_dir: Path, folder: Path) -> None:
        self.package, self.batch, outputs = batch_and_outputs(models_dir, np.zeros((1, 8, 8, 5)))
        # A checker asks neither queue nor statistics.
        lane = SimpleNamespace(info=EngineInfo("board", "made up for a test"))
        self.loaded = LoadedModel(self.package, lane, scheduler=None, statistics=None)
        self.recorded = Recorded(outputs, "board")
        self.gate = threading.Event()
        self.round_s = 0.0
        self._now_s = 0.0
        self.metrics = Metrics(CollectorRegistry())
        self.checker = ShadowChecker(1.0, ReproducerFolder(folder), self.metrics, clock=self._clock)

    def _clock(self) -> float:
        assert self.gate.wait(10)
        self._now_s += self.round_s
        return self._now_s

    def offer(self, times: int) -> None:
        for _ in range(times):
            self.checker.offer(self.loaded, self.batch, self.recorded)


@pytest.fixture
def bench(models_dir, tmp_path):
    bench = Bench(models_dir, tmp_path)
    yield bench
    bench.gate.set()
    bench.checker.close(10)


def test_what_the_queue_cannot_hold_is_dropped(bench):
    bench.checker.start()
    bench.offer(1)
    eventually(bench.checker._queue.empty)
    bench.offer(shadow_module.PLACES + 5)
    assert bench.checker.counts() == NOTHING | {"dropped": 5}
    assert (
        bench.metrics.registry.get_sample_value(
            "emamba_shadow_checks_total", {"result": "dropped"} | MARS
        )
        == 5
    )
    bench.gate.set()
    expected = NOTHING | {"dropped": 5, "matches": shadow_module.PLACES + 1}
    eventually(lambda: bench.checker.counts() == expected)


def test_worker_rests_nine_times_as_long_as_it_has_worked(bench):
    bench.round_s = 0.1
    bench.gate.set()
    bench.checker.start()
    bench.offer(1)
    eventually(lambda: bench.checker.counts()["matches"] == 1)
    begin_s = time.monotonic()
    bench.offer(1)
    eventually(lambda: bench.checker.counts()["matches"] == 2)
    assert time.monotonic() - begin_s > 0.5


def test_requests_of_a_round_are_told_apart(bench, caplog):
    wrong = Recorded(bench.recorded.outputs ^ np.int16(1), "board")
    bench.checker.start()
    bench.offer(1)
    eventually(bench.checker._queue.empty)
    for recorded in (bench.recorded, wrong, bench.recorded, wrong):
        bench.checker.offer(bench.loaded, bench.batch, recorded)
    bench.gate.set()
    eventually(lambda: bench.checker.counts() == NOTHING | {"matches": 3, "mismatches": 2})
    eventually(lambda: len(caplog.records) == 2)


def test_models_of_a_round_are_told_apart(shadowed, engines, points):
    with shadowed() as service:
        engines.of("9").flips = {(0, 0): 1}
        for version in ("9", "10", "9"):
            service.pose({"points": points, "version": version})
        check_count(service, matches=1, mismatches=2)
        labels = {"result": "mismatch", "model": "mars", "version": "9"}
        assert service.sample("emamba_shadow_checks_total", **labels) == 2


def test_closing_ends_the_rest_and_checks_what_waits(bench):
    bench.round_s = 1000.0
    bench.gate.set()
    bench.checker.start()
    bench.offer(5)
    bench.checker.close(10)
    assert bench.checker.counts() == NOTHING | {"matches": 5}


def test_what_cannot_be_checked_in_time_counts_as_dropped(bench, monkeypatch):
    monkeypatch.setattr(shadow_module, "_LAST_CHECK_S", 0)
    bench.checker.start()
    bench.offer(1)
    eventually(bench.checker._queue.empty)
    bench.offer(4)
    bench.checker.close(0)
    bench.gate.set()
    eventually(lambda: bench.checker.counts() == NOTHING | {"matches": 1, "dropped": 4})


def test_stopping_the_service_checks_what_waits(shadowed, points):
    with shadowed() as service:
        for _ in range(5):
            service.pose({"points": points})
    labels = {"result": "match"} | MARS
    assert service.sample("emamba_shadow_checks_total", **labels) == 5


def test_stopping_with_no_time_left_drops_or_checks_every_one(shadowed, points):
    with shadowed(drain_timeout_s=0) as service:
        for _ in range(5):
            service.pose({"points": points})
    results = ("match", "dropped")
    samples = [service.sample("emamba_shadow_checks_total", result=r, **MARS) for r in results]
    assert sum(samples) == 5


def test_check_that_fails_is_counted_and_the_next_one_done(bench, caplog):
    bench.gate.set()
    bench.checker.start()
    short = Recorded(np.zeros((0, 57), np.int16), "board")
    bench.checker.offer(bench.loaded, bench.batch, short)
    bench.offer(1)
    eventually(lambda: bench.checker.counts() == NOTHING | {"failed": 1, "matches": 1})
    assert [r.getMessage() for r in caplog.records] == ["a shadow check of mars 10 failed"]
    assert "IndexError" in caplog.text


def reproducer(frames: int = 1, seed: int = 0) -> Reproducer:
    rng = np.random.default_rng(seed)
    outputs = rng.integers(-9, 9, (frames, 57)).astype(np.int16)
    about = dict.fromkeys(("package_sha256", "engine", "time", "service"), "x")
    batch = rng.integers(-9, 9, (frames, 8, 8, 5)).astype(np.int8)
    return Reproducer(batch, outputs, outputs ^ 1, about | {"model": "mars", "version": "10"})


def test_reproducer_is_whole_private_and_without_pickle(tmp_path):
    folder = tmp_path / "a" / "b"
    assert ReproducerFolder(folder).writable()
    path = ReproducerFolder(folder).save(reproducer(2))
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    assert re.fullmatch(r"mismatch-mars-10-[0-9a-f]{16}\.npz", path.name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with np.load(path, allow_pickle=False) as archive:
        assert sorted(archive) == ["about", "expected", "got", "input"]
        assert json.loads(str(archive["about"])) == reproducer(2).about
    assert Reproducer.load(path).about == reproducer(2).about


def test_earlier_files_make_room_oldest_first_and_own_ones_stay(tmp_path):
    earlier = [ReproducerFolder(tmp_path, 4).save(reproducer()) for _ in range(4)]
    for age, path in enumerate(earlier):
        os.utime(path, (1e9 - age, 1e9 - age))  # the first is the newest
    other = tmp_path / "notes.txt"
    other.touch()
    folder = ReproducerFolder(tmp_path, 4)
    own = []
    for left in (3, 2, 1, 0):
        own.append(folder.save(reproducer(seed=left)))
        assert set(tmp_path.iterdir()) == {*earlier[:left], *own, other}
    with pytest.raises(ReproducerError, match=r"^this process has kept its first 4$"):
        folder.save(reproducer(seed=4))
    assert set(tmp_path.iterdir()) == {*own, other}


def test_bytes_are_bounded_too(tmp_path):
    size = len(reproducer().to_bytes())
    (earlier,) = [ReproducerFolder(tmp_path).save(reproducer())]
    folder = ReproducerFolder(tmp_path, max_bytes=2 * size)
    own = [folder.save(reproducer())]
    assert set(tmp_path.iterdir()) == {earlier, *own}
    own.append(folder.save(reproducer(seed=1)))
    assert set(tmp_path.iterdir()) == set(own)
    with pytest.raises(ReproducerError, match=f"^this process has kept its {2 * size} bytes$"):
        folder.save(reproducer(seed=2))


def test_what_is_kept_already_is_not_kept_again_unless_it_is_gone(tmp_path):
    folder = ReproducerFolder(tmp_path, 2)
    first, other = folder.save(reproducer()), folder.save(reproducer(seed=1))
    later = reproducer().about | {"time": "y"}
    again = Reproducer(**vars(reproducer()) | {"about": later})
    assert folder.save(again) == first
    assert set(tmp_path.iterdir()) == {first, other}
    first.unlink()
    with pytest.raises(ReproducerError, match=r"^this process has kept its first 2$"):
        folder.save(again)


@pytest.mark.parametrize("key", ["model", "version", "package_sha256", "engine"])
def test_mismatch_of_another_model_or_engine_is_another(key):
    one = reproducer()
    assert Reproducer(**vars(one) | {"about": one.about | {key: "z"}}).digest() != one.digest()


def test_default_folder_is_in_the_users_states(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "emamba" / "shadow"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/user")
    assert default_folder() == Path("/home/user/.local/state/emamba/shadow")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # in no list of users
    assert default_folder() == Path(tempfile.gettempdir()) / "emamba" / "shadow"
