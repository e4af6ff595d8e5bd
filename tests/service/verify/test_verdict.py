"""What is compared, how it is counted, and that an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from emamba.engines import EngineError, EngineUnavailableError
from emamba.evaluate import pose_report
from emamba.fixed import Mirror
from emamba_service.verify.journal import JournalError
from emamba_service.verify.schema import Report
from emamba_service.verify.streaming import RETRY_PAUSES_S
from emamba_service.verify.verdict import verify

CALLS = 8  # 60 frames in calls of 8


def at_call(number, change):
    """An `alter` that changes the outputs of one call."""

    def alter(call, recorded):
        if call != number:
            return recorded
        return replace(recorded, outputs=change(recorded.outputs.copy()))

    return alter


def fails_from(number, error):
    def alter(call, recorded):
        if call >= number:
            raise error
        return recorded

    return alter


def test_equal_engine_passes(request_for, bench, altered, frames, package):
    engine = altered()
    report = verify(request_for(), bench(engine))
    comparison = report.comparison
    assert (report.verdict, report.exit_code) == ("equal", 0)
    assert report.summary == "All 60 frames equal the mirror, bit for bit."
    assert (comparison.frames, comparison.compared) == (60, 60)
    assert (comparison.mismatches, comparison.missing, comparison.not_run) == (0, 0, 0)
    assert comparison.map is None
    assert comparison.localise == ""
    assert engine.closed
    expected = pose_report(package.decode(Mirror(package.model).run(frames.batch)), frames.labels)
    assert report.accuracy.engine == report.accuracy.mirror
    assert report.accuracy.engine.rmse_cm == pytest.approx(expected["rmse_cm"], abs=1e-4)
    assert report.accuracy.engine.per_movement.keys() == {"3"}


def test_one_wrong_bit_is_found_and_named(request_for, bench, altered, frames, package):
    def flip(outputs):
        outputs[5, 41] ^= 1
        return outputs

    report = verify(request_for(hint="look there"), bench(altered(at_call(2, flip))))
    expected = int(Mirror(package.model).run(frames.batch[21:22])[0, 41])
    assert (report.verdict, report.exit_code) == ("different", 1)
    assert report.comparison.mismatches == 1
    (found,) = report.comparison.first
    assert (found.frame, found.stage, found.index) == (210, "output", 41)
    assert (found.expected, found.got, found.differing) == (expected, expected ^ 1, 1)
    assert found.asked_again == "right"
    assert [(cell.column, cell.output, cell.frames) for cell in report.comparison.map.cells] == [
        (21, 41, 1)
    ]
    assert report.comparison.localise == "look there"


def test_a_wrong_kernel_repeats_itself(request_for, bench, altered):
    def always(call, recorded):
        outputs = recorded.outputs.copy()
        outputs[:, 3:5] ^= 4
        return replace(recorded, outputs=outputs)

    comparison = verify(request_for(), bench(altered(always))).comparison
    assert comparison.mismatches == 60
    assert [found.frame for found in comparison.first] == [0, 10, 20, 30, 40]
    assert {found.asked_again for found in comparison.first} == {"same"}
    assert {found.differing for found in comparison.first} == {2}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: o[:-1], "answered with int16 [7, 57] where int16 [8, 57] must come"),
        (lambda o: o[:, :-1], "answered with int16 [8, 56] where int16 [8, 57] must come"),
        (lambda o: o.astype(np.int32), "answered with int32 [8, 57] where int16 [8, 57] must come"),
        (
            lambda o: np.full(o.shape, np.nan),
            "answered with float64 [8, 57], 456 of them NaN or infinite, "
            "where int16 [8, 57] must come",
        ),
        (lambda o: None, "answered with NoneType where an array must come"),
    ],
)
def test_answers_that_cannot_be_compared_are_missing(request_for, bench, altered, change, reason):
    engine = altered(lambda call, r: replace(r, outputs=change(r.outputs)) if call == 1 else r)
    report = verify(request_for(), bench(engine))
    assert (report.verdict, report.exit_code) == ("different", 1)
    assert (report.comparison.missing, report.comparison.compared) == (8, 52)
    (problem,) = report.comparison.problems
    assert (problem.first_frame, problem.frames, problem.reason) == (80, 8, reason)
    assert report.accuracy.engine is None
    assert report.accuracy.mirror is not None
    assert report.accuracy.reason == "8 of the engine's answers are missing"


def test_frames_that_another_engine_answers_are_missing(request_for, bench, altered):
    engine = altered(lambda call, r: replace(r, engine="native") if call == 3 else r)
    report = verify(request_for(), bench(engine))
    assert report.exit_code == 1
    assert report.comparison.missing == 8
    assert report.comparison.problems[0].reason == "answered by engine native in place of mirror"


def test_an_engine_that_cannot_answer_for_a_while_is_waited_for(request_for, bench, altered):
    slept: list[float] = []

    def alter(call, recorded):
        if call in (2, 3):
            raise EngineUnavailableError("is configured anew")
        return recorded

    report = verify(request_for(), bench(altered(alter), sleep=slept.append))
    assert report.exit_code == 0
    assert report.comparison.retries == 2
    assert slept == list(RETRY_PAUSES_S[:2])


@pytest.mark.parametrize(
    ("error", "reason", "waits"),
    [
        (EngineUnavailableError("no board"), "no answer in 5 tries: no board", 4),
        (EngineError("lost"), "lost", 0),
        (RuntimeError("broken"), "RuntimeError: broken", 0),
    ],
)
def test_an_engine_that_stops_is_incomplete(
    request_for, bench, altered, tmp_path, error, reason, waits
):
    slept: list[float] = []
    engine = altered(fails_from(3, error))
    report = verify(request_for(out=tmp_path), bench(engine, sleep=slept.append))
    assert (report.verdict, report.exit_code) == ("incomplete", 3)
    assert (report.comparison.compared, report.comparison.not_run) == (24, 36)
    assert report.summary.endswith(f"engine mirror stopped after 24 of 60 frames: {reason}.")
    assert report.accuracy.reason == "only 24 of 60 frames were run"
    assert report.speed.reason == "the engine stopped before"
    assert len(slept) == waits
    again = verify(request_for(out=tmp_path), bench(altered()))
    assert (again.exit_code, again.ran.resumed_frames) == (0, 24)


def test_an_engine_that_stops_under_measurement_is_incomplete(request_for, bench, altered):
    report = verify(request_for(), bench(altered(fails_from(CALLS + 2, EngineError("lost")))))
    assert report.exit_code == 3
    assert report.comparison.compared == 60
    reason = "engine mirror stopped while its speed was measured at 1 frame a call: lost"
    assert report.speed.reason == reason
    assert report.summary == f"All 60 frames equal the mirror, bit for bit; {reason}."


def test_a_difference_stays_one_when_the_engine_stops(request_for, bench, altered):
    def alter(call, recorded):
        if call == 2:
            raise EngineError("lost")
        return replace(recorded, outputs=recorded.outputs + np.int16(1))

    report = verify(request_for(), bench(altered(alter)))
    assert (report.verdict, report.exit_code) == ("different", 1)
    assert report.comparison.not_run == 44
    assert {found.asked_again for found in report.comparison.first} == {"failed"}


def facts(report):
    """What two runs of the same frames must agree on: all but times and what was resumed."""
    return (report.verdict, report.summary, report.comparison, report.accuracy)


@pytest.mark.parametrize("call", [0, 1, CALLS - 1])
def test_interrupted_run_goes_on_to_the_same_report(request_for, bench, altered, tmp_path, call):
    def wrong(number, recorded):
        outputs = recorded.outputs.copy()
        outputs[0, 7] ^= 1
        return replace(recorded, outputs=outputs)

    def interrupted(number, recorded):
        if number == call:
            raise KeyboardInterrupt
        return wrong(number, recorded)

    undisturbed = verify(request_for(out=tmp_path / "a"), bench(altered(wrong)))
    stopped, second = altered(interrupted), altered(wrong)
    with pytest.raises(KeyboardInterrupt):
        verify(request_for(out=tmp_path / "b"), bench(stopped))
    assert stopped.closed
    report = verify(request_for(out=tmp_path / "b"), bench(second))
    assert facts(report) == facts(undisturbed)
    assert report.comparison.mismatches == CALLS
    assert report.ran.resumed_frames == 8 * call
    for name in ("outputs.bin", "journal.jsonl"):
        kept, whole = ((tmp_path / run / name).read_bytes() for run in "ba")
        assert kept == whole


def interrupt(request, bench, altered, call=4):
    def alter(number, recorded):
        if number == call:
            raise KeyboardInterrupt
        return recorded

    with pytest.raises(KeyboardInterrupt):
        verify(request, bench(altered(alter)))


@pytest.mark.parametrize(
    ("name", "damage", "kept"),
    [
        ("journal.jsonl", lambda blob: blob[:-9], 24),
        ("journal.jsonl", lambda blob: blob + b'{"start": 32, "fra', 32),
        ("outputs.bin", lambda blob: blob[:-1], 24),
        ("outputs.bin", lambda blob: blob + bytes(5), 32),
        ("outputs.bin", lambda blob: bytes([blob[0] ^ 1]) + blob[1:], 0),
        ("journal.jsonl", lambda blob: blob[:20], 0),
    ],
)
def test_torn_or_damaged_ends_are_run_again(
    request_for, bench, altered, tmp_path, name, damage, kept
):
    interrupt(request_for(out=tmp_path), bench, altered)
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    report = verify(request_for(out=tmp_path), bench(altered()))
    assert (report.exit_code, report.ran.resumed_frames) == (0, kept)
    assert (tmp_path / "outputs.bin").stat().st_size == 60 * 57 * 2 * 2


def test_another_runs_folder_is_refused(request_for, bench, altered, tmp_path):
    interrupt(request_for(out=tmp_path), bench, altered)
    with pytest.raises(JournalError, match=r"differs in batch; choose another folder"):
        verify(request_for(out=tmp_path, batch=16), bench(altered()))
    (tmp_path / "journal.jsonl").write_text('{"shopping": "list"}\n')
    with pytest.raises(JournalError, match="must begin as a verification's journal"):
        verify(request_for(out=tmp_path), bench(altered()))


def test_a_folder_takes_one_run_at_a_time(request_for, bench, altered, tmp_path):
    def alter(call, recorded):
        if call == 2:
            with pytest.raises(JournalError, match="another is writing it"):
                verify(request_for(out=tmp_path), bench(altered()))
        return recorded

    engine = altered(alter)
    assert verify(request_for(out=tmp_path), bench(engine)).exit_code == 0
    assert engine.calls > CALLS


def test_a_finished_run_begins_anew(request_for, bench, altered, tmp_path):
    assert verify(request_for(out=tmp_path), bench(altered())).exit_code == 0
    engine = altered(lambda call, r: replace(r, outputs=r.outputs[:1]))
    report = verify(request_for(out=tmp_path), bench(engine))
    assert (report.exit_code, report.ran.resumed_frames) == (1, 0)
    written = Report.model_validate_json((tmp_path / "report.json").read_text())
    assert written == report
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "different"
