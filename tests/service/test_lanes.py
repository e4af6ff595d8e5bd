"""Frames on the wire; lanes to engines in threads: answers, errors, statuses, lost connections."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from emamba.engines import (
    EngineError,
    EngineInfo,
    EngineStatus,
    EngineUnavailableError,
    MirrorEngine,
    Recorded,
)
from emamba.fixed import Mirror
from emamba.package import Package, load_package
from emamba_service.lanes import Lane, ThreadRoom
from emamba_service.lanes.lane import MOST_OUTSTANDING, LaneLostError
from emamba_service.lanes.serving import serve_lane
from emamba_service.lanes.wire import MAX_ARRAY_BYTES, Frame, Kind, Reader, WireError, pack
from lane_parts import frames, until

Run = Callable[[Coroutine[Any, Any, None]], None]

HEAD = struct.Struct("<BBH4I")
OPENED = pack(
    Kind.OPENED, b'{"name": "made-up", "description": "", "state": "ready", "reason": ""}'
)
RECOVERING = EngineStatus("recovering", "a transfer must end within 0.5 s, but did not")


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request) -> Run:
    """Runs a coroutine, on either kind of loop."""
    return request.param


@pytest.fixture(scope="session")
def package(models_dir) -> Package:
    return load_package(models_dir / "mars" / "10")


class Keeper:
    """Notes what it is told; says what a room would say."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def lane_lost(self, lane: Lane, why: str) -> None:
        self.told.append(("lost", why))
        lane.lose(EngineStatus("recovering", f"it {why}"))

    def lane_hung(self, lane: Lane, why: str) -> None:
        self.told.append(("hung", why))

    def lane_unopened(self, lane: Lane, why: str) -> None:
        self.told.append(("unopened", why))

    def lane_closed(self, lane: Lane) -> None:
        self.told.append(("closed", ""))


# The wire.


@st.composite
def some_frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(Kind))
    note = draw(st.binary(max_size=70))
    if kind is Kind.RUN:
        shape = draw(st.tuples(*[st.integers(1, 4)] * 4))
        return Frame(kind, note, np.frombuffer(draw(st.randoms()).randbytes(256), np.int8)[
            : int(np.prod(shape))
        ].reshape(shape))  # fmt: skip
    if kind is Kind.ANSWER:
        shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 57)))
        seed = draw(st.integers(0, 2**32))
        return Frame(
            kind, note, np.random.default_rng(seed).integers(-32768, 32768, shape, dtype=np.int16)
        )
    return Frame(kind, note, None)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[begin:end] for begin, end in pairwise(ends)]


@given(st.lists(some_frames(), max_size=4), st.lists(st.integers(0, 1500), max_size=6))
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(sent, places):
    reader = Reader()
    stream = b"".join(pack(*frame) for frame in sent)
    got = [frame for piece in cut(stream, places) for frame in reader.feed(piece)]
    assert [(kind, note) for kind, note, _ in got] == [(kind, note) for kind, note, _ in sent]
    for (_, _, array), (_, _, expected) in zip(got, sent, strict=True):
        assert (array is None) == (expected is None)
        if array is not None:
            assert (array.dtype, array.shape) == (expected.dtype, expected.shape)
            assert array.tobytes() == expected.tobytes()


@given(
    some_frames(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 255)), max_size=5),
    st.binary(max_size=60),
    st.lists(st.integers(0, 900), max_size=4),
)
def test_damaged_streams_give_frames_or_are_refused(frame, damage, more, places):
    stream = bytearray(pack(*frame) + more)
    for place, value in damage:
        stream[place % len(stream)] = value
    reader = Reader()
    got_bytes = 0
    # Whatever else is raised fails the test.
    with suppress(WireError):
        for piece in cut(bytes(stream), places):
            for kind, note, array in reader.feed(piece):
                assert (array is not None) == (kind in (Kind.RUN, Kind.ANSWER))
                got_bytes += HEAD.size + len(note) + (0 if array is None else array.nbytes)
    assert got_bytes <= len(stream)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (
            (Kind.STATUS, b"x" * 65536),
            "a note must have at most 65535 bytes, but has 65536",
        ),
        (
            (Kind.RUN, b""),
            "a frame of kind RUN must have an array",
        ),
        (
            (Kind.FAILED, b"", np.zeros((1, 2, 3, 4), np.int8)),
            "a frame of kind FAILED must have no array",
        ),
        (
            (Kind.RUN, b"", np.zeros((1, 8, 8, 5), np.float32)),
            "the array of kind RUN must be int8 of 4 dimensions, but is float32 of 4",
        ),
        (
            (Kind.ANSWER, b"", np.zeros(57, np.int16)),
            "the array of kind ANSWER must be int16 of 2 dimensions, but is int16 of 1",
        ),
        (
            (Kind.RUN, b"", np.zeros((0, 8, 8, 5), np.int8)),
            "an array must have 1..67108864 bytes, but has 0; send fewer frames",
        ),
        (
            (Kind.RUN, b"", np.broadcast_to(np.int8(0), (209716, 8, 8, 5))),
            "an array must have 1..67108864 bytes, but has 67109120; send fewer frames",
        ),
    ],
)
def test_what_no_frame_holds_is_refused(frame, sentence):
    with pytest.raises(WireError) as error:
        pack(*frame)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (
            (7, 0, 0, 0, 0, 0, 0),
            "a frame must begin with a kind and 0, but does with b'\\x07\\x00'",
        ),
        (
            (1, 1, 0, 1, 8, 8, 5),
            "a frame must begin with a kind and 0, but does with b'\\x01\\x01'",
        ),
        (
            (4, 0, 0, 0, 0, 1, 0),
            "a frame of kind STATUS must have no array, but has [0, 0, 1, 0]",
        ),
        (
            (1, 0, 0, MAX_ARRAY_BYTES, 1, 1, 2),
            "the array of kind RUN must have 4 dimensions and 1..67108864 bytes, "
            "but has the shape [67108864, 1, 1, 2]",
        ),
        (
            (1, 0, 0, 0, 4294967295, 4294967295, 4294967295),
            "the array of kind RUN must have 4 dimensions and 1..67108864 bytes, "
            "but has the shape [0, 4294967295, 4294967295, 4294967295]",
        ),
        (
            (2, 0, 0, 1, 57, 2, 1),
            "the array of kind ANSWER must have 2 dimensions and 1..67108864 bytes, "
            "but has the shape [1, 57, 2, 1]",
        ),
    ],
)
def test_heads_of_no_frame_are_refused_before_the_rest_has_come(head, sentence):
    with pytest.raises(WireError) as error:
        Reader().feed(HEAD.pack(*head))
    assert str(error.value) == sentence


# Engines in threads.


def test_answers_are_the_mirrors_and_come_in_order(run, engines, package, models_dir):
    batches = [frames(1 + seed % 3, seed) for seed in range(20)]

    async def main() -> None:
        room = ThreadRoom(engines)
        lane = await room.open("board", models_dir, package)
        assert lane.info == EngineInfo("board", "made up for a test")
        done: list[int] = []
        runs = [lane.run(batch) for batch in batches]
        for number, future in enumerate(runs):
            future.add_done_callback(lambda _, number=number: done.append(number))
        for batch, recorded in zip(batches, await asyncio.gather(*runs), strict=True):
            assert recorded.outputs.dtype == np.int16
            assert np.array_equal(recorded.outputs, Mirror(package.model).run(batch))
            assert (recorded.engine, recorded.stages_s) == ("board", {})
        assert done == list(range(20))
        await room.close()
        assert engines.latest.closed

    run(main())


def test_deputies_and_stages_are_told(run, engines, package, models_dir):
    async def main() -> None:
        room = ThreadRoom(engines)
        lane = await room.open("board", models_dir, package)
        engines.latest.stages_s = {"pack": np.float64(1e-6), "kernel": 25e-6}
        recorded = await lane.run(frames(1))
        assert (recorded.engine, recorded.stages_s) == ("board", {"pack": 1e-6, "kernel": 25e-6})
        engines.latest.stages_s, engines.latest.computed_by = {}, "native"
        recorded = await lane.run(frames(1))
        assert (recorded.engine, recorded.stages_s) == ("native", {})
        await room.close()

    run(main())


def test_errors_of_a_run_come_as_they_were_raised(run, engines, package, models_dir, caplog):
    async def main() -> None:
        room = ThreadRoom(engines)
        lane = await room.open("board", models_dir, package)
        engines.latest.refusal = "the board is being reset; try again"
        with pytest.raises(EngineUnavailableError) as away:
            await lane.run(frames(1))
        assert str(away.value) == "the board is being reset; try again"
        engines.latest.refusal = None
        with pytest.raises(EngineError) as failed:
            await lane.run(np.full((1, 8, 8, 5), -128, np.int8))
        assert type(failed.value) is EngineError
        assert str(failed.value) == (
            "engine board failed on this request; the service's log says why"
        )
        with pytest.raises(EngineError) as refused:
            await lane.run(np.zeros((1, 8, 8, 5), np.float32))
        assert str(refused.value) == (
            "the array of kind RUN must be int8 of 4 dimensions, but is float32 of 4"
        )
        outputs = (await lane.run(frames(2))).outputs
        assert np.array_equal(outputs, Mirror(package.model).run(frames(2)))
        await room.close()

    run(main())
    assert "engine board failed on a request" in caplog.text
    assert "batch must lie in -127..127, but holds -128" in caplog.text


def test_engine_that_answers_for_other_frames_than_came_has_failed(
    run, engines, package, models_dir, caplog
):
    async def main() -> None:
        room = ThreadRoom(engines)
        lane = await room.open("board", models_dir, package)
        engines.latest.record = lambda batch: Recorded(np.zeros((5, 57), np.int16), "board")
        with pytest.raises(EngineError, match="engine board failed on this request"):
            await lane.run(frames(1))
        await room.close()

    run(main())
    assert "1 frames must have one answer each, but 5 came" in caplog.text


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (EngineError("the board holds one model only"), "the board holds one model only"),
        (KeyError("secret"), "the engine does not open; the service's log says why"),
    ],
)
def test_engine_that_does_not_open_says_why(run, package, models_dir, raised, sentence, caplog):
    def refusing(_name: str, _model: Any) -> Any:
        raise raised

    async def main() -> None:
        room = ThreadRoom(refusing)
        with pytest.raises(EngineError) as error:
            await room.open("board", models_dir, package)
        assert str(error.value) == sentence
        await room.close()

    run(main())
    assert ("KeyError: 'secret'" in caplog.text) == isinstance(raised, KeyError)


def test_engine_in_a_thread_is_asked_for_its_status(run, engines, package, models_dir):
    async def main() -> None:
        room = ThreadRoom(engines)
        lane = await room.open("board", models_dir, package)
        assert lane.status == EngineStatus()
        engines.latest.status = RECOVERING
        assert lane.status == RECOVERING
        await room.close()
        assert lane.status == EngineStatus("failed", "the engine must be open, but has been closed")

    run(main())


# One lane, and what a far end may do.


async def served(lane: Lane, open_engine: Callable[[], Any]) -> threading.Thread:
    near, far = socket.socketpair()
    thread = threading.Thread(target=serve_lane, args=(far, open_engine), daemon=True)
    thread.start()
    await lane.connect(near, 60)
    return thread


async def opened_by_hand(lane: Lane) -> socket.socket:
    """The far end of a connected lane, for the test to write to."""
    near, far = socket.socketpair()
    far.sendall(OPENED)
    await lane.connect(near, 60)
    return far


def test_status_comes_without_a_run_and_before_the_answer_that_changed_it(run, engines, package):
    engine = engines("board", package.model)

    async def main() -> None:
        lane = Lane(Keeper())
        thread = await served(lane, lambda: engine)
        assert lane.status == EngineStatus()
        engine.status = RECOVERING
        await until(lambda: lane.status == RECOVERING)
        compute = engine.record

        def mending(batch: np.ndarray) -> Recorded:
            engine.status = EngineStatus()
            return compute(batch)

        engine.record = mending
        await lane.run(frames(1))
        assert lane.status == EngineStatus()
        await lane.close()
        thread.join()

    run(main())


def test_cancelled_runs_do_not_put_answers_out_of_order(run, package):
    async def main() -> None:
        lane = Lane(Keeper())
        thread = await served(lane, lambda: MirrorEngine(package.model))
        runs = [lane.run(frames(1, seed)) for seed in range(6)]
        for cancelled in runs[1:3]:
            cancelled.cancel()
        for seed in (0, 3, 4, 5):
            expected = Mirror(package.model).run(frames(1, seed))
            assert np.array_equal((await runs[seed]).outputs, expected)
        await lane.close()
        thread.join()

    run(main())


def test_runs_that_may_be_outstanding_are_bounded(run):
    async def main() -> None:
        lane = Lane(Keeper())
        far = await opened_by_hand(lane)
        runs = [lane.run(frames(1)) for _ in range(MOST_OUTSTANDING)]
        with pytest.raises(EngineUnavailableError) as error:
            await lane.run(frames(1))
        assert str(error.value) == "an engine must have at most 64 runs outstanding; try again"
        assert not any(future.done() for future in runs)
        far.close()
        await asyncio.wait(runs)
        assert {str(future.exception()) for future in runs} == {"it closed the socket of an engine"}
        await lane.close()

    run(main())


def test_lane_answers_again_after_its_far_end_left_within_an_answer(run, package):
    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper)
        far = await opened_by_hand(lane)
        runs = [lane.run(frames(1)) for _ in range(3)]
        first = np.arange(57, dtype=np.int16)[None]
        far.sendall(pack(Kind.ANSWER, b"", first) + pack(Kind.ANSWER, b"", first)[:77])
        far.close()
        assert np.array_equal((await runs[0]).outputs, first)
        for lost in runs[1:]:
            with pytest.raises(EngineUnavailableError) as error:
                await lost
            assert str(error.value) == "it closed the socket of an engine"
        assert keeper.told == [("lost", "closed the socket of an engine")]
        assert lane.status == EngineStatus("recovering", "it closed the socket of an engine")
        with pytest.raises(EngineUnavailableError, match="it closed the socket of an engine"):
            await lane.run(frames(1))
        thread = await served(lane, lambda: MirrorEngine(package.model))
        assert (lane.status, lane.info.name) == (EngineStatus(), "mirror")
        outputs = (await lane.run(frames(1))).outputs
        assert np.array_equal(outputs, Mirror(package.model).run(frames(1)))
        await lane.close()
        thread.join()

    run(main())


ANSWER = pack(Kind.ANSWER, b"", np.zeros((1, 57), np.int16))


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"HTTP/1.1 200 OK, ...", "a frame must begin with a kind and 0, but does with b'HT'"),
        (
            pack(Kind.ANSWER, b"", np.zeros((2, 57), np.int16)),
            "1 frames must have one answer each, but have 2",
        ),
        (ANSWER + ANSWER, "an answer must follow a run"),
        (pack(Kind.RUN, b"", frames(1)), "a frame of kind RUN must not come here"),
        (OPENED, "a frame of kind OPENED must not come here"),
        (pack(Kind.STATUS, b"{}"), "'state'"),
        (pack(Kind.ANSWER, b"{}", np.zeros((1, 57), np.int16)), "'engine'"),
    ],
)  # fmt: skip
def test_far_end_that_sends_what_is_no_answer_is_left(run, sent, why):
    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper)
        far = await opened_by_hand(lane)
        future = lane.run(frames(1))
        far.sendall(sent)
        await asyncio.wait([future])
        await until(lambda: bool(keeper.told))
        assert keeper.told == [("lost", f"sent what is no answer ({why})")]
        far.close()
        await lane.close()

    run(main())


def test_engine_that_is_sent_what_is_no_run_is_closed(engines, package, caplog):
    near, far = socket.socketpair()
    engine = engines("board", package.model)
    thread = threading.Thread(target=serve_lane, args=(far, lambda: engine), daemon=True)
    thread.start()
    with near:
        near.sendall(ANSWER)
        thread.join()
    assert engine.closed
    assert caplog.messages == [
        "a lane is closed, since its other end has sent what is no run: "
        "a run must come, but a frame of kind ANSWER came"
    ]


def test_far_end_that_leaves_while_it_opens_is_lost(run):
    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper)
        near, far = socket.socketpair()
        far.close()
        with pytest.raises(LaneLostError):
            await lane.connect(near, 60)
        assert keeper.told == []
        await lane.close()

    run(main())


def test_opening_and_running_take_no_longer_than_allowed(run):
    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper, timeout_s=0.05)
        near, far = socket.socketpair()
        with far:
            with pytest.raises(EngineError) as error:
                await lane.connect(near, 0.05)
            assert str(error.value) == ("the engine's process did not open an engine within 0.05 s")
        assert keeper.told == [("unopened", "did not open an engine within 0.05 s")]
        with await opened_by_hand(lane) as far:
            future = lane.run(frames(1))
            await until(lambda: len(keeper.told) > 1)
            assert keeper.told[1:] == [("hung", "did not answer within 0.05 s")]
            assert not future.done()
        with pytest.raises(EngineUnavailableError, match="it closed the socket of an engine"):
            await future
        await lane.close()

    run(main())


def test_waiting_for_the_run_before_does_not_count(run):
    """Each of 6 answers comes after a quarter of what is allowed for one."""

    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper, timeout_s=2.0)
        far = await opened_by_hand(lane)
        runs = [lane.run(frames(1)) for _ in range(6)]
        for future in runs:
            await asyncio.sleep(0.5)
            far.sendall(ANSWER)
            await future
        assert keeper.told == []
        far.close()
        await until(lambda: bool(keeper.told))
        await lane.close()

    run(main())


def test_closing_lets_outstanding_runs_end(run, engines, package):
    engine = engines("board", package.model)

    async def main() -> None:
        keeper = Keeper()
        lane = Lane(keeper)
        thread = await served(lane, lambda: engine)
        runs = [lane.run(frames(1, seed)) for seed in range(5)]
        await lane.close()
        assert engine.closed
        for seed, future in enumerate(runs):
            expected = Mirror(package.model).run(frames(1, seed))
            assert np.array_equal(future.result().outputs, expected)
        with pytest.raises(EngineUnavailableError) as error:
            await lane.run(frames(1))
        assert str(error.value) == "the engine must be open, but has been closed"
        await lane.close()
        assert keeper.told == [("closed", "")]
        thread.join()

    run(main())
