"""The page as people see it: headless Chromium before the real service."""

from __future__ import annotations

import io
import json
import runpy
import signal
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from websockets.sync.client import connect

from emamba_service.auth import new_token, write_tokens
from emamba_service.site import PAGE
from page.conftest import DESKTOP, PHONE, REPOSITORY
from service.test_live import finish, start

MARS_TEST = REPOSITORY.parent / "shared" / "data" / "mars_test.npz"
RUN = PAGE / "replay" / "s2-m06.npz"


def run_frames() -> list[np.ndarray]:
    with np.load(RUN) as run:
        return np.split(run["points"], np.cumsum(run["counts"])[:-1])


def pose_of(url: str, frame: dict[str, object]) -> list[list[float]]:
    (pose,) = httpx.post(f"{url}/v1/pose", json=frame).json()["poses"]
    return [[joint["x_m"], joint["y_m"], joint["z_m"]] for joint in pose["joints"]]


def test_skeleton_moves_and_nothing_complains(open_page, service):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 3")
    before = window.pixels()
    colours = Image.open(io.BytesIO(before)).convert("RGB").getcolors(1 << 24)
    assert colours is not None
    assert len(colours) > 100
    window.wait("shown.frame.sequence > 12")
    assert window.pixels() != before
    assert window.complaints == []


def test_drawing_goes_on_between_frames(open_page, service):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 5")
    frames, drawings = window.shown("[shown.frame.sequence, shown.drawings]")
    window.wait(f"shown.frame.sequence > {frames + 20}")
    more_frames, more_drawings = window.shown("[shown.frame.sequence, shown.drawings]")
    assert more_drawings - drawings > 2 * (more_frames - frames)


def test_less_motion_is_drawn_where_less_is_wanted(open_page, service):
    window = open_page(service.url, reduced_motion="reduce")
    window.wait("shown.frame?.sequence > 3")
    before = window.pixels()
    window.wait("shown.frame.sequence > 12")
    assert window.pixels() != before


def test_joints_are_those_of_the_api(open_page, service):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 3")
    window.pause()
    sequence, points, joints, labels = window.shown(
        "[shown.frame.sequence, shown.frame.points, shown.frame.joints, shown.frame.labels]"
    )
    at = (sequence - 1) % 40
    np.testing.assert_array_equal(np.float32(points), run_frames()[at])
    assert joints == pose_of(service.url, {"points": points})
    with np.load(RUN) as run:
        np.testing.assert_array_equal(np.float32(labels), run["labels"][at].reshape(3, 19).T)
    error_cm = 100 * np.abs(np.array(joints) - labels).mean()
    window.wait_for_text("#error", f"{error_cm:.1f} cm, mean ")
    window.page.click("summary")
    window.wait_for_text("#joints tr:first-child", f"SpineBase{joints[0][0]:.3f}")


def test_replay_pauses_steps_and_takes_another_speed(open_page, service):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 3")
    window.pause()
    paused = window.shown("shown.frame.sequence")
    window.page.keyboard.press("Escape")
    window.page.locator("body").click(position={"x": 600, "y": 5})
    window.page.keyboard.press(".")
    window.wait(f"shown.frame.sequence === {paused + 1}")
    window.page.click("#step")
    window.wait(f"shown.frame.sequence === {paused + 2}")
    window.page.wait_for_timeout(300)
    assert window.shown("shown.frame.sequence") == paused + 2
    window.page.select_option("#speed", "5")
    window.page.click("#play")
    begun = time.monotonic()
    window.wait(f"shown.frame.sequence > {paused + 60}")
    assert time.monotonic() - begun < 4
    window.page.select_option("#subject", "4")
    assert window.page.locator("#movement option").count() == 9
    window.wait("shown.frame?.sequence > 3")


def test_view_turns_with_keys_pointer_and_wheel(open_page, service):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 3")
    window.pause()
    start = view = window.pixels()
    window.page.focus("#skeleton")
    for action in (
        lambda: window.page.keyboard.press("ArrowLeft"),
        lambda: window.page.keyboard.press("ArrowUp"),
        lambda: window.page.keyboard.press("+"),
        lambda: (window.page.hover("#cloud"), window.page.mouse.wheel(0, 200)),
        lambda: (
            window.page.hover("#cloud"),
            window.page.mouse.down(),
            window.page.mouse.move(900, 200),
            window.page.mouse.up(),
        ),
    ):
        action()
        window.page.wait_for_timeout(100)
        assert window.pixels() != view
        view = window.pixels()
    window.page.focus("#step")
    window.page.click("#reset")
    window.page.wait_for_timeout(100)
    window.page.focus("#skeleton")
    assert window.pixels() == start


def test_two_fingers_zoom(open_page, service):
    window = open_page(service.url, PHONE, has_touch=True)
    window.wait("shown.frame?.sequence > 3")
    window.pause()
    view = window.pixels()
    session = window.page.context.new_cdp_session(window.page)

    def touch(kind: str, *places: tuple[int, int]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (150, 250), (240, 250))
    for spread in range(10, 90, 10):
        touch("touchMove", (150 - spread // 2, 250), (240 + spread // 2, 250))
    touch("touchEnd")
    window.page.wait_for_timeout(100)
    assert window.pixels() != view


def test_page_comes_back_after_the_service_did(open_page, packages, free_port):
    live = start(packages, port=free_port)
    try:
        window = open_page(live.url)
        window.wait("shown.frame?.sequence > 3")
        assert live.stop(signal.SIGTERM) == 0
        window.wait("shown.state !== 'open'")
        window.wait_for_text("#notice", "Trying again in")
        window.wait_for_text("#engine", "engine: no answer")
        window.wait_for_text("#alarm", "The service does not answer.")
        assert window.text("#total") == "\u2013"
        finish(live)
        live = start(packages, port=free_port)
        window.wait("shown.state === 'open'")
        window.wait("shown.frame.sequence > 3")
        window.wait_for_text("#engine", "engine: mirror")
        assert window.page.locator("#notice").is_hidden()
        assert window.page.locator("#alarm").is_hidden()
    finally:
        finish(live)


def test_published_stream_is_watched(open_page, service):
    window = open_page(f"{service.url}/#watch=radar")
    window.wait_for_text("#notice", "Trying again in")
    points = run_frames()[0].tolist()
    labels = [[0.1, 2.0, 0.5]] * 19
    socket = service.url.replace("http", "ws")
    with connect(f"{socket}/v1/pose/stream?publish=radar") as stream:
        stream.recv(10)
        window.wait_for_text("#notice", "Connected; no frame has come yet.")
        stream.send(json.dumps({"sequence": 7, "points": points, "labels": labels}))
        answer = json.loads(stream.recv(10))
        window.wait("shown.frame?.sequence === 7")
        frame = window.shown("shown.frame")
        assert frame["joints"] == answer["joints"]
        assert (frame["points"], frame["labels"]) == (points, labels)
        assert frame["engine"] == "mirror"
    window.wait_for_text("#notice", "the stream has ended. Trying again in")


def test_page_before_a_fleet_has_a_replay_and_says_what_it_has_not(open_page, service):
    window = open_page(service.url)
    problem = {"status": 403, "detail": "lists of streams belong to one board"}
    for path in ("streams", "vitals"):
        window.page.route(f"**/v1/{path}", lambda route: route.fulfill(status=403, json=problem))
    window.wait_for_text("#engine", "engine: one of a fleet")
    assert window.page.locator("#alarm").is_hidden()
    window.page.select_option("#source", "live")
    window.wait_for_text("#notice[data-kind=error]", "lists of streams belong to one board")
    window.page.select_option("#source", "replay")
    window.wait("shown.frame?.sequence > 3")


def test_live_streams_are_listed_as_they_come(open_page, service):
    window = open_page(service.url)
    window.page.select_option("#source", "live")
    window.wait_for_text("#notice", "No stream is published now.")
    socket = service.url.replace("http", "ws")
    with connect(f"{socket}/v1/pose/stream?publish=hall") as stream:
        stream.recv(10)
        window.wait("shown.state === 'open'")
        assert window.page.input_value("#stream") == "hall"
        points = run_frames()[1].tolist()
        stream.send(json.dumps({"sequence": 1, "points": points}))
        window.wait("shown.frame?.sequence === 1")
        assert window.page.locator("#error-row").is_hidden()


def recordings(folder: Path) -> dict[str, bytes]:
    """The run's first frames in every form that the page reads, by file name."""
    frames = run_frames()[:3]
    np.save(folder / "points.npy", frames[0])
    maps = np.zeros((3, 64, 5), "<f8")
    for row, points in zip(maps, frames, strict=True):
        row[: len(points)] = points
    np.savez(folder / "maps.npz", features=maps.reshape(3, 8, 8, 5), time_s=[0, 0.1, 0.2])
    rows = [points.tolist() for points in frames]
    texts = {
        "one.csv": "x,y,z,doppler,intensity\n"
        + "\n".join(",".join(map(repr, row)) for row in rows[0]),
        "frames.json": json.dumps({"frames": [{"points": points} for points in rows]}),
        "bare.json": json.dumps(rows[0]),
        "lines.jsonl": "\n".join(
            json.dumps({"number": n, "time_s": n / 20, "points": points})
            for n, points in enumerate(rows)
        ),
    }
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {RUN.name: RUN.read_bytes(), **written, **{k: v.encode() for k, v in texts.items()}}


def test_own_files_are_played(open_page, service, tmp_path):
    window = open_page(service.url)
    window.page.select_option("#source", "file")
    window.wait_for_text("#notice", "Choose a recording, or drop one anywhere on this page")
    window.pause()
    for name, content in recordings(tmp_path).items():
        file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        window.page.set_input_files("#file", file)
        window.wait("shown.frame === null && shown.state === 'open'")
        window.page.click("#step")
        window.wait("shown.frame?.sequence === 1")
        points, joints = window.shown("[shown.frame.points, shown.frame.joints]")
        np.testing.assert_array_equal(np.float32(points), run_frames()[0], err_msg=name)
        assert joints == pose_of(service.url, {"points": points}), name
    assert window.complaints == []


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("walk.mat", b"", "walk.mat must be one of .npz, .npy, .json, .jsonl, .csv"),
        ("walk.npz", b"no archive", "walk.npz cannot be read: it is no whole .npz archive"),
        ("walk.npy", b"no array at all", "walk.npy cannot be read: it is no NumPy array"),
        ("walk.json", b"{", "walk.json cannot be read: "),
        ("walk.json", b'{"frames": []}', "must hold at least one frame with points"),
        ("walk.jsonl", b'{"x": 1}', "each frame must have points or features"),
    ],
)
def test_other_files_are_refused_with_a_sentence(open_page, service, name, content, sentence):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 0")
    window.page.select_option("#source", "file")
    file = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    window.page.set_input_files("#file", file)
    window.wait_for_text("#notice[data-kind=error]", sentence)
    window.page.select_option("#source", "replay")
    window.wait("shown.frame?.sequence > 0")
    assert window.complaints == []


def test_what_the_service_refuses_is_told(open_page, service):
    window = open_page(service.url)
    window.page.select_option("#source", "file")
    file = {"name": "far.json", "mimeType": "", "buffer": b"[[500, 1, 1, 0, 3]]"}
    window.page.set_input_files("#file", file)
    window.wait_for_text("#notice[data-kind=error]", "points must lie within 100 m and 100 m/s")


def test_recording_is_saved_and_played_again(open_page, service, tmp_path):
    window = open_page(service.url)
    window.wait("shown.frame?.sequence > 0")
    window.page.click("#record")
    window.page.wait_for_timeout(1000)
    with window.page.expect_download() as download:
        window.page.click("#record")
    download.value.save_as(tmp_path / "pose.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "pose.jsonl").read_text().splitlines()]
    assert len(lines) >= 5
    for line in lines:
        assert line["joints"] == pose_of(service.url, {"points": line["points"]})
        assert line["engine"] == "mirror"
        assert line["latency_us"] > 0
    window.page.select_option("#source", "file")
    window.page.set_input_files("#file", tmp_path / "pose.jsonl")
    window.wait("shown.frame?.sequence > 2")
    assert window.shown("shown.frame.labels") is not None


def test_token_is_asked_for(open_page, packages, tmp_path):
    secret, token = new_token("page", ("infer",))
    write_tokens(tmp_path / "tokens.json", [token])
    live = start(packages, tokens=tmp_path / "tokens.json")
    try:
        window = open_page(live.url)
        window.page.locator("#token").wait_for()
        window.page.fill("#token-text", secret)
        window.page.keyboard.press("Enter")
        window.wait("shown.frame?.sequence > 2")
        assert window.page.locator("#token").is_hidden()
    finally:
        finish(live)


BOARD = {
    "clock_s": 100.0,
    "models": [
        {
            "model": "mars",
            "version": "1",
            "engine": "board",
            "state": "degraded",
            "reason": "the board does not answer; native answers in its place",
            "frames": 1000,
            "waiting": 0,
        }
    ],
    "streams": 1,
    "viewers": 0,
    "shadow": {"matches": 10, "mismatches": 2, "dropped": 0, "failed": 0},
    "power_w": {"pl_core": 0.75, "pl": 1.5, "ps": 2.25},
    "energy_j": {"pl_core": 10.0},
    "temperature_c": {"pl": 48.25},
}


def test_trouble_is_loud_and_measurements_are_shown_where_there_are_any(open_page, service):
    window = open_page(service.url)
    window.wait_for_text("#unmeasured-row", "not measured here")
    for row in ("power", "energy", "temperature"):
        assert window.page.locator(f"#{row}-row").is_hidden()
    frames = iter(range(1000, 100_000, 100))

    def answer(route):
        now = next(frames)
        energy = {"pl_core": now / 100}
        model = BOARD["models"][0] | {"frames": now}
        route.fulfill(json=BOARD | {"models": [model], "energy_j": energy})

    window.page.route("**/v1/vitals", answer)
    window.wait_for_text("#alarm", "Engine board (FPGA) is degraded: the board does not answer")
    window.wait_for_text("#shadow.bad", "2 MISMATCHES, 10 match")
    window.wait_for_text("#power", "accelerator 0.75 W, PL 1.50 W, PS 2.25 W")
    window.wait_for_text("#temperature", "pl 48.3 °C")
    window.wait_for_text("#energy", "10.000 mJ, idle included")
    assert window.page.locator("#unmeasured-row").is_hidden()


def test_image_tab_classifies_what_is_drawn_and_what_is_chosen(open_page, service):
    window = open_page(service.url)
    window.page.click("#tab-images")
    window.wait_for_text("#image-notice", "Draw something, or choose or drop an image.")
    assert window.page.input_value("#image-model") == "grey"
    window.page.hover("#pad")
    window.page.mouse.down()
    window.page.mouse.move(300, 300)
    window.page.mouse.up()
    window.wait_for_text("#image-time", " in the engine; round trip ")
    assert window.page.locator("#classes li").count() == 5
    picture = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture, "png")
    body = picture.getvalue()
    file = {"name": "a.png", "mimeType": "image/png", "buffer": body}
    window.page.set_input_files("#image", file)
    headers = {"content-type": "image/png"}
    answer = httpx.post(f"{service.url}/v1/classify?model=grey", content=body, headers=headers)
    likeliest = answer.json()["predictions"][0]["top"][0]
    window.wait_for_text(
        "#classes li:first-child", f"{likeliest['class']}{100 * likeliest['probability']:.1f} %"
    )
    window.page.set_input_files("#image", file | {"buffer": b"no picture"})
    window.wait_for_text("#image-notice", "must be")
    window.page.click("#tab-pose")
    window.wait("shown.frame?.sequence > 0")


def test_image_tab_shows_no_answer_to_what_is_cleared(open_page, service):
    window = open_page(service.url)
    window.page.click("#tab-images")
    window.wait_for_text("#image-notice", "Draw something, or choose or drop an image.")
    held = []
    window.page.route("**/v1/classify*", lambda route: held.append(route))  # noqa: PLW0108
    window.page.hover("#pad")
    window.page.mouse.down()
    with window.page.expect_request("**/v1/classify*"):
        window.page.mouse.up()
    window.page.click("#clear")
    with window.page.expect_response("**/v1/classify*"):
        held[0].continue_()
    window.page.unroute("**/v1/classify*")
    assert window.page.locator("#classes li").count() == 0
    window.page.hover("#pad")
    window.page.mouse.down()
    window.page.mouse.up()
    window.wait_for_text("#image-time", " in the engine; round trip ")


def test_image_tab_says_that_there_is_no_image_model(open_page):
    live = start(Path(__file__).parents[1] / "one_model")
    try:
        window = open_page(live.url)
        window.page.click("#tab-images")
        window.wait_for_text("#image-notice", "No image model is installed.")
    finally:
        finish(live)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["pose", "images"])
def test_page_is_accessible(open_page, service, size, scheme, tab):
    window = open_page(service.url, size, color_scheme=scheme)
    window.wait("shown.frame?.sequence > 3")
    window.page.click(f"#tab-{tab}")
    window.page.wait_for_timeout(600)
    result = Axe().run(window.page)
    assert result.violations_count == 0, result.generate_report()
    overflow = window.page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0


def test_state_is_told_in_words(open_page, service):
    window = open_page(service.url)
    window.wait_for_text("#summary", "shipped replay: playing, ")
    assert "engine: mirror" in window.text("#summary")


def test_page_weighs_less_than_60_kilobytes():
    sizes = {path.name: path.stat().st_size for path in PAGE.iterdir() if path.is_file()}
    assert sum(sizes.values()) < 60_000, sizes


def test_page_is_for_browsers_and_kept_to_its_own_service(service):
    page = httpx.get(service.url, headers={"accept": "text/html,*/*;q=0.8"})
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["vary"] == "accept"
    index = httpx.get(service.url)
    assert index.json()["links"]["vitals"] == "/v1/vitals"
    style = httpx.get(f"{service.url}/page/style.css")
    assert style.headers["content-security-policy"] == policy
    assert style.headers["cache-control"] == "no-cache"
    again = {"if-none-match": style.headers["etag"]}
    assert httpx.get(f"{service.url}/page/style.css", headers=again).status_code == 304
    assert style.headers["content-encoding"] == "gzip"
    for path in ("/page/nothing.js", "/page/", "/page/..%2fapp.py", "/page/replay"):
        answer = httpx.get(service.url + path)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"


def test_replay_has_every_subject_and_movement_there_is():
    runs = json.loads((PAGE / "replay" / "runs.json").read_text())["runs"]
    assert {(run["subject"], run["movement"]) for run in runs} == {
        (subject, movement) for subject in range(1, 5) for movement in range(1, 11)
    } - {(4, 10)}
    assert {run["file"] for run in runs} == {path.name for path in RUN.parent.glob("*.npz")}


@pytest.mark.skipif(not MARS_TEST.exists(), reason=f"needs {MARS_TEST}")
def test_script_makes_this_replay():
    script = runpy.run_path(str(REPOSITORY / "service" / "scripts" / "make_replay.py"))
    with np.load(MARS_TEST) as data:
        test = {name: data[name] for name in data.files}
    for subject, movement in ((1, 1), (3, 6), (4, 9)):
        made = script["make_run"](test, subject, movement)
        with np.load(PAGE / "replay" / f"s{subject}-m{movement:02}.npz") as shipped:
            assert set(made) == set(shipped.files)
            for name, array in made.items():
                np.testing.assert_array_equal(array, shipped[name])
    assert script["make_run"](test, 4, 10) is None
