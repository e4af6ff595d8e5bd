"""The service's Prometheus metrics; docs/service.md lists them.

Seconds are the base unit. The stock buckets start at 5 ms, above what one frame takes, so the
histograms have their own from 50 us to 10 s, the time-outs of the default settings.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import get_args, get_type_hints

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from emamba.engines import EngineStatus
from emamba_service import __version__
from emamba_service.models import LoadedModel

__all__ = ["ENGINE_STAGES", "STAGES", "Metrics"]

STAGES = ("parse", "encode", "engine", "decode")
# Parts of "engine", which only engines with a device have.
ENGINE_STAGES = ("pack", "transfer", "kernel", "unpack", "guard")
_STATES: tuple[str, ...] = get_args(get_type_hints(EngineStatus)["state"])
# Seconds: 1, 2 and 5 of each decade.
BUCKETS = (
    *(50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3),
    *(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
)


class Metrics:
    """All metrics, in a registry of the caller's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Histogram(
            "emamba_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route", "status"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._stages = Histogram(
            "emamba_stage_duration_seconds",
            "Time of one stage of an inference request.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.stages = {stage: self._stages.labels(stage) for stage in STAGES}
        self.frames = Counter(
            "emamba_frames", "Frames answered.", ["model", "version"], registry=registry
        )
        self.errors = Counter(
            "emamba_errors", "Problems answered, by kind.", ["kind"], registry=registry
        )
        self.pending = Gauge(
            "emamba_pending_requests", "Requests queued or in computation.", registry=registry
        )
        self.models = Gauge(
            "emamba_model_info",
            "1 for each loaded model.",
            ["model", "version", "engine", "package_sha256"],
            registry=registry,
        )
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
        self.engine_states = _EngineStates()
        registry.register(self.engine_states)
        build = Info("emamba_build", "Versions the service runs with.", registry=registry)
        build.info(
            {
                "version": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            }
        )

    def observe_engine(self, stages_s: Mapping[str, float]) -> dict[str, float]:
        """Observe the stages that an engine has told, and give those there are, in seconds."""
        known = {stage: stages_s[stage] for stage in ENGINE_STAGES if stage in stages_s}
        for stage, seconds in known.items():
            self._stages.labels(stage).observe(seconds)
        return known


class _EngineStates(Collector):
    """Asks the engines how they fare whenever metrics are collected."""

    def __init__(self) -> None:
        self.models: Iterable[LoadedModel] = ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(
            "emamba_engine_state",
            "1 for the state that a model's engine is in, 0 for the others.",
            labels=["model", "version", "state"],
        )
        for model in self.models:
            now = model.engine.status.state
            for state in _STATES:
                labels = [model.package.name, model.package.version, state]
                family.add_metric(labels, float(state == now))
        yield family
