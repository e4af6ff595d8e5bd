"""Spans for OpenTelemetry, of requests and their stages, where the settings name a collector."""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from starlette.types import Scope

from emamba_service import __version__
from emamba_service.errors import ServiceError
from emamba_service.inference import answered
from emamba_service.logs import request_id, trace_parent
from emamba_service.settings import Settings, SettingsError

__all__ = ["Tracer", "open_tracer"]

# One after the other, as they come in time.
_STAGES = ("preprocess", "queue", "quantise", "engine", "postprocess")

# A collector that does not answer must not hold up the service's end.
_CLOSE_S = 2.0
_EXPORT_TIMEOUT_S = 5.0


class Tracer:
    """Records answered requests with `provider`, an OpenTelemetry SDK's."""

    def __init__(self, provider: Any) -> None:
        self._trace = importlib.import_module("opentelemetry.trace")
        self._propagator = importlib.import_module(
            "opentelemetry.trace.propagation.tracecontext"
        ).TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("emamba_service", __version__)

    def record(
        self, route: str, status: int, seconds: float, problem: ServiceError | None, scope: Scope
    ) -> None:
        """A request has been answered just now, after `seconds`."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(seconds * 1e9)
        parent = trace_parent.get()
        context = self._propagator.extract({"traceparent": parent} if parent else {})
        span = self._tracer.start_span(
            f"{scope['method']} {route}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            start_time=start_ns,
            attributes={
                "http.request.method": scope["method"],
                "http.route": route,
                "http.response.status_code": status,
                "emamba.request_id": request_id.get() or "",
            },
        )
        if problem is not None:
            span.set_attribute("error.type", problem.kind)
        if status >= 500:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        self._record_stages(span, end_ns)
        span.end(end_ns)

    def close(self) -> None:
        """Send what has been recorded, for 2 s at most."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_CLOSE_S)

    def _record_stages(self, span: Any, end_ns: int) -> None:
        """A child for each stage of inference; they end shortly before the request does."""
        computed = answered.get()
        if computed is None:
            return
        span.set_attribute("emamba.engine", computed.engine)
        span.set_attribute("emamba.frames", len(computed.values))
        context = self._trace.set_span_in_context(span)
        timing_us = computed.timing_us
        begin_ns = end_ns - int(sum(timing_us[stage] for stage in _STAGES) * 1e3)
        for stage in _STAGES:
            child = self._tracer.start_span(stage, context=context, start_time=begin_ns)
            if stage == "engine":
                # Parts that overlap, and so cannot be spans one after the other.
                for part, part_us in timing_us.get("engine_stages", {}).items():
                    child.set_attribute(f"emamba.engine.{part}_us", part_us)
            begin_ns += int(timing_us[stage] * 1e3)
            child.end(begin_ns)


def open_tracer(settings: Settings) -> Tracer | None:
    """A tracer that exports to the settings' collector, or None without one.

    Raises `SettingsError` for an endpoint that is no URL, or where OpenTelemetry is not installed.
    """
    endpoint = settings.trace_endpoint
    if not endpoint:
        return None
    if not _is_url(endpoint):
        raise SettingsError(
            "--trace-endpoint must be an http or https URL, such as "
            f"http://127.0.0.1:4318/v1/traces, but is {endpoint!r}"
        )
    try:
        sdk = importlib.import_module("opentelemetry.sdk.trace")
        export = importlib.import_module("opentelemetry.sdk.trace.export")
        otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
        resources = importlib.import_module("opentelemetry.sdk.resources")
    except ImportError as error:
        raise SettingsError(
            "--trace-endpoint needs OpenTelemetry, which is not installed; "
            "run pip install 'emamba-service[tracing]'"
        ) from error
    resource = resources.Resource.create(
        {"service.name": "emamba-service", "service.version": __version__}
    )
    provider = sdk.TracerProvider(resource=resource, shutdown_on_exit=False)
    # Sends from a thread of its own; its queue is bounded, and what does not fit is dropped.
    exporter = otlp.OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_TIMEOUT_S)
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return Tracer(provider)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
