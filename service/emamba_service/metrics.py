"""The service's Prometheus metrics; docs/service.md lists them.

Seconds are the base unit. The stock buckets start at 5 ms, above what one frame takes, so the
histograms have their own from 50 us to 10 s, the time-outs of the default settings.
"""

from __future__ import annotations

import platform

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from emamba_service import __version__

__all__ = ["STAGES", "Metrics"]

STAGES = ("parse", "encode", "engine", "decode")
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
        stages = Histogram(
            "emamba_stage_duration_seconds",
            "Time of one stage of an inference request.",
            ["stage"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.stages = {stage: stages.labels(stage) for stage in STAGES}
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
        build = Info("emamba_build", "Versions the service runs with.", registry=registry)
        build.info(
            {
                "version": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
            }
        )
