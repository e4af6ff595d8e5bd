"""Shadow checks: a share of the answered requests, computed again by the mirror off their path.

A request pays for a random number; one that is chosen, for an entry in a queue as well. One thread
does the checks, in rounds: the mirror takes many frames at a fraction of the time of each alone. It
rests in between, and so takes a tenth of one processor at most; what the queue cannot hold
meanwhile is dropped and counted. Its scheduling priority is that of the others on purpose: it would
keep the interpreter lock while others are given its processor, and requests would wait for both.
"""

from __future__ import annotations

import logging
import platform
import random
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from emamba.engines import MirrorEngine, Recorded
from emamba_service import __version__
from emamba_service.metrics import CheckResult, Metrics
from emamba_service.models import LoadedModel
from emamba_service.shadow_files import Reproducer, ReproducerError, ReproducerFolder

__all__ = ["Mismatch", "ShadowChecker"]

PLACES = 64
# Frames after which a round takes no further request.
ROUND_FRAMES = 64
# Rest after a round: at least this long, and this many times as long as the round.
REST_S = 0.25
REST_ROUNDS = 9
# Of one request, so that a check is short; more are checked as a random choice of this many.
CHECKED_FRAMES = 32
# A reproducer holds the whole request up to here, since frames of a batch may depend on each
# other where an engine is wrong; beyond, only the checked ones.
KEPT_FRAMES = 1024
# Mirrors kept; beyond, the one made first goes.
_MIRRORS = 16
# Mismatches logged one by one; beyond, those whose count is a power of two.
LOGGED = 16
_LAST_CHECK_S = 5.0
_log = logging.getLogger(__name__)


class _Answered(NamedTuple):
    loaded: LoadedModel
    batch: npt.NDArray[np.int8]
    recorded: Recorded


@dataclass(frozen=True)
class Mismatch:
    """Where an answer first differs from the mirror's; `frames` of `checked` of `total` do."""

    model: str
    version: str
    engine: str
    frame: int
    output: int
    expected: int
    got: int
    frames: int
    checked: int
    total: int

    def __str__(self) -> str:
        return (
            f"engine {self.engine} of {self.model} {self.version} differs from the mirror: "
            f"frame {self.frame}, output {self.output} must be {self.expected}, but is {self.got}"
        )


class ShadowChecker:
    """Compares answers with the mirror's, bit for bit, on a thread of its own.

    `fraction` of the calls of `offer` are checked, chosen by `source`; answers that the mirror
    itself has computed never are. `first` is the first mismatch, if there was one. `options` are
    those with which `emamba-service reproduce` finds what this service has opened.
    """

    def __init__(
        self,
        fraction: float,
        folder: ReproducerFolder,
        metrics: Metrics,
        source: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        options: Sequence[str] = (),
    ) -> None:
        source = source or random.Random()
        self.first: Mismatch | None = None
        self._fraction = fraction
        self._folder = folder
        self._metrics = metrics
        self._clock = clock
        self._options = options
        self._frames = random.Random(source.random())
        self._draw = source.random
        self._queue: SimpleQueue[_Answered | None] = SimpleQueue()
        # By the package's SHA-256: a version may be swapped for another of the same name.
        self._mirrors: dict[str, MirrorEngine] = {}
        self._counts: Counter[CheckResult] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._dropping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="emamba-shadow", daemon=True)

    def start(self) -> None:
        """Begin to check; warns where mismatches could not be kept."""
        if not self._folder.writable():
            _log.warning(
                "%s must be a folder to write to, but is not: mismatches of shadow checks will be "
                "logged, not kept; name another with --shadow-folder",
                self._folder.folder,
            )
        self._thread.start()

    def offer(self, loaded: LoadedModel, batch: npt.NDArray[np.int8], recorded: Recorded) -> None:
        """Check this answer if it is chosen; neither array may change afterwards."""
        if recorded.engine == "mirror" or self._draw() >= self._fraction:
            return
        answered = _Answered(loaded, batch, recorded)
        # Not exact between threads, which may put one entry each too many.
        if self._queue.qsize() < PLACES:
            self._queue.put(answered)
        else:
            self._count(answered, "dropped")

    def counts(self) -> dict[str, int]:
        """Requests by what came of them."""
        with self._lock:
            counts = self._counts.copy()
        return {
            "matches": counts["match"],
            "mismatches": counts["mismatch"],
            "dropped": counts["dropped"],
            "failed": counts["failed"],
        }

    def close(self, timeout_s: float) -> None:
        """Check what waits, for `timeout_s` at most, and count the rest as dropped."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout_s)
        self._dropping.set()
        self._thread.join(_LAST_CHECK_S)

    def _work(self) -> None:
        while gathered := self._gather():
            if self._dropping.is_set():
                for answered in gathered:
                    self._count(answered, "dropped")
                continue
            begun_s = self._clock()
            for same in _by_model(gathered):
                with self._counting_failures(same):
                    self._check(same)
            self._closing.wait(max(REST_S, REST_ROUNDS * (self._clock() - begun_s)))

    def _gather(self) -> list[_Answered]:
        """What waits, up to a round's frames; nothing once the checker is closed."""
        gathered: list[_Answered] = []
        frames = 0
        while not gathered or (frames < ROUND_FRAMES and not self._queue.empty()):
            answered = self._queue.get()
            if answered is None:
                self._queue.put(None)
                break
            gathered.append(answered)
            frames += min(len(answered.batch), CHECKED_FRAMES)
        return gathered

    def _check(self, same: list[_Answered]) -> None:
        """Run the mirror once for requests to one model, and compare each."""
        mirror = self._mirror(same[0].loaded)
        chosen = [self._chosen(len(answered.batch)) for answered in same]
        batches = [answered.batch[frames] for answered, frames in zip(same, chosen, strict=True)]
        expected = mirror.run(np.concatenate(batches))
        pieces = np.split(expected, np.cumsum([len(frames) for frames in chosen])[:-1])
        for answered, frames, piece in zip(same, chosen, pieces, strict=True):
            with self._counting_failures([answered]):
                self._compare(answered, frames, piece, mirror)

    def _compare(
        self,
        answered: _Answered,
        chosen: npt.NDArray[np.intp],
        expected: npt.NDArray[np.int16],
        mirror: MirrorEngine,
    ) -> None:
        """Count what the mirror's `expected` integers for the `chosen` frames say of an answer."""
        differs = expected != answered.recorded.outputs[chosen]
        wrong = np.flatnonzero(differs.any(1))
        self._count_frames(answered, len(chosen), len(wrong))
        if not len(wrong):
            self._count(answered, "match")
            return
        frame, output = chosen[wrong[0]], np.flatnonzero(differs[wrong[0]])[0]
        package = answered.loaded.package
        mismatch = Mismatch(
            model=package.name,
            version=package.version,
            engine=answered.recorded.engine,
            frame=int(frame),
            output=int(output),
            expected=int(expected[wrong[0], output]),
            got=int(answered.recorded.outputs[frame, output]),
            frames=len(wrong),
            checked=len(chosen),
            total=len(answered.batch),
        )
        self.first = self.first or mismatch
        self._count(answered, "mismatch")
        self._report(answered, mismatch, chosen, mirror)

    @contextmanager
    def _counting_failures(self, same: list[_Answered]) -> Iterator[None]:
        try:
            yield
        except Exception:
            package = same[0].loaded.package
            _log.exception("a shadow check of %s %s failed", package.name, package.version)
            for answered in same:
                self._count(answered, "failed")

    def _report(
        self,
        answered: _Answered,
        mismatch: Mismatch,
        chosen: npt.NDArray[np.intp],
        mirror: MirrorEngine,
    ) -> None:
        """Keep the mismatch and log it."""
        number = self._counts["mismatch"]
        if number > LOGGED and number & (number - 1):
            return
        try:
            path = self._folder.save(_reproducer(answered, mismatch, chosen, mirror))
            command = shlex.join(["emamba-service", "reproduce", str(path), *self._options])
            kept = f"try it again with: {command}"
        except OSError as error:
            kept = f"not kept: {error.filename}: {error.strerror}"
        except ReproducerError as error:
            kept = f"not kept: {error}"
        if number == LOGGED:
            kept += f"; further ones are logged at {2 * LOGGED}, {4 * LOGGED}, ..."
        _log.error(
            "mismatch %d: %s; %d of the %d frames checked of %d differ; %s",
            *(number, mismatch, mismatch.frames, mismatch.checked, mismatch.total, kept),
        )

    def _chosen(self, frames: int) -> npt.NDArray[np.intp]:
        """Indices of the frames to check, ascending."""
        if frames <= CHECKED_FRAMES:
            return np.arange(frames)
        return np.array(sorted(self._frames.sample(range(frames), CHECKED_FRAMES)))

    def _mirror(self, loaded: LoadedModel) -> MirrorEngine:
        key = loaded.package.sha256
        if key not in self._mirrors:
            if len(self._mirrors) >= _MIRRORS:
                del self._mirrors[next(iter(self._mirrors))]
            self._mirrors[key] = MirrorEngine(loaded.package.model)
        return self._mirrors[key]

    def _count(self, answered: _Answered, result: CheckResult) -> None:
        package = answered.loaded.package
        with self._lock:
            self._counts[result] += 1
        self._metrics.shadow_checks.labels(result, package.name, package.version).inc()

    def _count_frames(self, answered: _Answered, checked: int, wrong: int) -> None:
        package = answered.loaded.package
        for result, frames in (("match", checked - wrong), ("mismatch", wrong)):
            if frames:
                labels = (result, package.name, package.version)
                self._metrics.shadow_frames.labels(*labels).inc(frames)


def _by_model(answers: list[_Answered]) -> list[list[_Answered]]:
    groups: dict[str, list[_Answered]] = {}
    for answered in answers:
        groups.setdefault(answered.loaded.package.sha256, []).append(answered)
    return list(groups.values())


def _reproducer(
    answered: _Answered,
    mismatch: Mismatch,
    chosen: npt.NDArray[np.intp],
    mirror: MirrorEngine,
) -> Reproducer:
    total = len(answered.batch)
    kept = np.arange(total) if total <= KEPT_FRAMES else chosen
    pieces = np.array_split(kept, -(-len(kept) // CHECKED_FRAMES))
    return Reproducer(
        batch=answered.batch[kept],
        expected=np.concatenate([mirror.run(answered.batch[piece]) for piece in pieces]),
        got=answered.recorded.outputs[kept],
        about=_about(answered, mismatch)
        | {"frames": kept.tolist(), "frames_checked": chosen.tolist()},
    )


def _about(answered: _Answered, mismatch: Mismatch) -> dict[str, Any]:
    package, engine = answered.loaded.package, answered.loaded.lane.info
    return {
        "model": package.name,
        "version": package.version,
        "package_sha256": package.sha256,
        "engine": mismatch.engine,
        "engine_opened": {"name": engine.name, "description": engine.description},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "service": __version__,
        "emamba": version("emamba"),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "mismatch": str(mismatch),
    }
