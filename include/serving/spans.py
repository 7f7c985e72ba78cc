"""OpenTelemetry's spans of an inference request, when somebody wants them; until then the packages are not imported."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

SERVICE = "tradewind-model-server"
HTTP_SERVER_ERROR = 500
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Trace:
    """What a request goes through, stage by stage; this one is told and forgets."""

    def mark(self, stage: str, **attributes: str | int | None) -> None:
        """Say that a stage is over, which began when the one before was."""

    def end(self, *, status: int) -> None:
        """Say that the request was answered."""


NO_TRACE = Trace()


class RequestTrace(Trace):
    """The span of one request, whose stages become its children; one thread at a time may mark."""

    def __init__(self, *, tracer: Tracer, span: Span, context: Context) -> None:
        self._tracer, self._span, self._context = tracer, span, context
        self._last_ns = time.time_ns()

    def mark(self, stage: str, **attributes: str | int | None) -> None:
        """Say that a stage is over, which began when the one before was."""
        now_ns = time.time_ns()
        child = self._tracer.start_span(
            stage, context=self._context, start_time=self._last_ns, attributes=_named(attributes)
        )
        child.end(now_ns)
        self._last_ns = now_ns

    def end(self, *, status: int) -> None:
        """Say that the request was answered."""
        from opentelemetry.trace import StatusCode

        self._span.set_attribute("http.response.status_code", status)
        if status >= HTTP_SERVER_ERROR or not status:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """Begins traces, and sends them to a collector by OTLP over HTTP, in batches and from a thread of its own.

    Args:
        provider: The SDK's.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("include.serving")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str], *, model: str) -> Trace:
        """Return the trace of a request, a child of its caller's span where the header `traceparent` names one."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        parent = self._propagator.extract(carrier)
        attributes = _named({"model": model[:64]})
        span = self._tracer.start_span("infer", context=parent, kind=SpanKind.SERVER, attributes=attributes)
        if not span.is_recording():
            return NO_TRACE
        return RequestTrace(tracer=self._tracer, span=span, context=set_span_in_context(span))

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def tracing(endpoint: str | None) -> Tracing | None:
    """Return what traces requests; None: nobody asked for it.

    Args:
        endpoint: Base address of a collector, such as `http://127.0.0.1:4318`; None: what the standard variables
            `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` say. Sampling, headers and the
            service's name are also set by OpenTelemetry's own variables.
    """
    is_asked = endpoint is not None or any(os.environ.get(name) for name in _ENDPOINTS)
    if not is_asked or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", SERVICE)})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    to = None if endpoint is None else f"{endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=to)))
    return Tracing(provider)


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {f"tradewind.{name}": value for name, value in attributes.items() if value is not None}
