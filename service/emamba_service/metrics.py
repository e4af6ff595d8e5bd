"""The service's Prometheus metrics; docs/service.md lists them.

Seconds are the base unit. The stock buckets start at 5 ms, above what one frame takes, so the
histograms have their own from 50 us to 10 s, the time-outs of the default settings.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from emamba.engines import EngineStatus
from emamba_service import __version__
from emamba_service.histograms import Histograms, Series
from emamba_service.models import LoadedModel
from emamba_service.scheduler import Computed

__all__ = ["ENGINE_STAGES", "OUTCOMES", "STAGES", "CheckResult", "Metrics"]

STAGES = ("preprocess", "queue", "quantise", "engine", "postprocess")
# Parts of "engine", which only engines with a device have.
ENGINE_STAGES = ("pack", "transfer", "kernel", "unpack", "guard")
# What becomes of a request that names a model and has a valid input.
OUTCOMES = ("ok", "queue_full", "timeout", "unavailable", "failed")
# What becomes of a shadow check.
CheckResult = Literal["match", "mismatch", "dropped", "failed"]
_STATES: tuple[str, ...] = get_args(get_type_hints(EngineStatus)["state"])
# Seconds: 1, 2 and 5 of each decade.
BUCKETS = (
    *(50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)
_BATCH_BUCKETS = tuple(2.0**power for power in range(9))


class Metrics:
    """All metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        # `labels` takes longer than what is done with its answer.
        self._answered: dict[tuple[str, ...], _Answered] = {}
        self._requests = Histograms(
            "emamba_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route", "status"],
            BUCKETS,
            registry,
        )
        self._stages = Histograms(
            "emamba_stage_duration_seconds",
            "Time of one stage of an inference request.",
            ["model", "stage"],
            BUCKETS,
            registry,
        )
        self._batches = Histograms(
            "emamba_batch_frames",
            "Frames that an engine computed at a time.",
            ["model"],
            _BATCH_BUCKETS,
            registry,
        )
        self.inferences = Counter(
            "emamba_inferences",
            "Requests for inference, by what came of them.",
            ["model", "version", "engine", "outcome"],
            registry=registry,
        )
        self.frames = Counter(
            "emamba_frames", "Frames answered.", ["model", "version", "engine"], registry=registry
        )
        self.errors = Counter(
            "emamba_errors", "Problems answered, by kind.", ["kind"], registry=registry
        )
        self.streams = Gauge("emamba_streams", "Open WebSocket streams.", registry=registry)
        self.stream_frames = Counter(
            "emamba_stream_frames",
            "Frames of WebSocket streams, by what came of them.",
            ["outcome"],
            registry=registry,
        )
        self.viewers = Gauge("emamba_viewers", "Viewers of published streams.", registry=registry)
        self.connections = Gauge("emamba_connections", "Open connections.", registry=registry)
        self.shadow_checks = Counter(
            "emamba_shadow_checks",
            "Requests chosen to be computed again by the mirror, by what came of it.",
            ["result", "model", "version"],
            registry=registry,
        )
        self.shadow_frames = Counter(
            "emamba_shadow_frames",
            "Frames that shadow checks have compared.",
            ["result", "model", "version"],
            registry=registry,
        )
        self.overlay = Gauge(
            "emamba_overlay_info",
            "1 where a board or emulator has an overlay.",
            ["engine", "preset", "config_hash", "bitstream_sha256"],
            registry=registry,
        )
        self.models = _Loaded()
        registry.register(self.models)
        build = Info("emamba_build", "Versions the service runs with.", registry=registry)
        build.info(
            {
                "version": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            }
        )

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(route, str(status)).observe(seconds)

    def observe_batch_of(self, model: str) -> Callable[[int], None]:
        """What to tell the frames of each batch of `model`."""
        return self._batches.labels(model).observe

    def observe_answer(
        self, model: str, version: str, computed: Computed, preprocess_s: float
    ) -> None:
        """A request for inference has been answered."""
        labels = (model, version, computed.recorded.engine)
        of = self._answered.get(labels)
        if of is None:
            of = self._answered[labels] = self._answered_of(*labels)
        of.requests.inc()
        of.frames.inc(len(computed.values))
        of.preprocess.observe(preprocess_s)
        of.queue.observe(computed.queue_s)
        of.quantise.observe(computed.quantise_s)
        of.engine.observe(computed.engine_s)
        of.postprocess.observe(computed.postprocess_s)
        for stage, seconds in computed.recorded.stages_s.items():
            if stage in ENGINE_STAGES:
                self._stages.labels(model, stage).observe(seconds)

    def expect(self, model: str, version: str) -> None:
        """Have a series of 0 for whatever may become of a request for this version."""
        for outcome in OUTCOMES:
            if outcome != "ok":
                self.inferences.labels(model, version, "none", outcome)

    def expect_checks(self, model: str, version: str) -> None:
        """Have a series of 0 for whatever may become of a shadow check of this version."""
        for result in get_args(CheckResult):
            self.shadow_checks.labels(result, model, version)
        for result in ("match", "mismatch"):
            self.shadow_frames.labels(result, model, version)

    def count_refusal(self, model: str, version: str, outcome: str) -> None:
        """A request for inference has not been answered; `outcome` is one of `OUTCOMES`."""
        self.inferences.labels(model, version, "none", outcome).inc()

    def _answered_of(self, model: str, version: str, engine: str) -> _Answered:
        return _Answered(
            self.inferences.labels(model, version, engine, "ok"),
            self.frames.labels(model, version, engine),
            *(self._stages.labels(model, stage) for stage in STAGES),
        )


@dataclass(frozen=True, slots=True)
class _Answered:
    """What answers of one model, version and engine are counted in; the stages are `STAGES`."""

    requests: Counter
    frames: Counter
    preprocess: Series
    queue: Series
    quantise: Series
    engine: Series
    postprocess: Series


class _Loaded(Collector):
    """Asks the loaded models how they fare whenever metrics are collected."""

    def __init__(self) -> None:
        self.now: Iterable[LoadedModel] = ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        state = GaugeMetricFamily(
            "emamba_engine_state",
            "1 for the state that a model's engine is in, 0 for the others.",
            labels=["model", "version", "state"],
        )
        info = GaugeMetricFamily(
            "emamba_model_info",
            "1 for each loaded model.",
            labels=["model", "version", "engine", "package_sha256"],
        )
        depth = GaugeMetricFamily(
            "emamba_queue_depth",
            "Requests that wait for the engine.",
            labels=["model", "version"],
        )
        pending = 0
        for model in self.now:
            package, lane = model.package, model.lane
            labels = [package.name, package.version]
            for one in _STATES:
                state.add_metric([*labels, one], float(one == lane.status.state))
            info.add_metric([*labels, lane.info.name, package.sha256], 1)
            depth.add_metric(labels, model.scheduler.waiting)
            pending += model.scheduler.pending
        yield from (state, info, depth)
        yield GaugeMetricFamily(
            "emamba_pending_requests", "Requests queued or in computation.", value=pending
        )
