"""The model server's Prometheus metrics; they only ever grow, unlike the router's counters of one rollout step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from include.serving.prediction_log import PredictionLog
    from include.serving.router import Router

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Counts what the server does, in a registry of its own."""

    def __init__(self, *, router: Router, log: PredictionLog) -> None:
        self.registry = CollectorRegistry()
        self._scored = Counter(
            "tradewind_scored_requests",
            "Requests by the version that scored them, or failed to",
            ("model", "version", "role", "outcome"),
            registry=self.registry,
        )
        self._inference_s = Histogram(
            "tradewind_inference_seconds",
            "Encoding and inference of one request",
            ("model", "version", "role"),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._request_s = Histogram(
            "tradewind_request_seconds",
            "One inference request as its caller waits for it, without the network",
            ("model",),
            buckets=LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self._answers = Counter(
            "tradewind_http_answers", "Inference answers by HTTP status", ("status",), registry=self.registry
        )
        self.shadow_dropped = Counter(
            "tradewind_shadow_dropped_requests",
            "Copies for a shadow that was too slow; nobody waited for them",
            registry=self.registry,
        )
        self.registry.register(_StateCollector(router=router, log=log))

    def scored(self, *, model: str, version: str, role: str, ok: bool, latency_ms: float) -> None:
        """Count one version's work on one request."""
        self._scored.labels(model, version, role, "ok" if ok else "error").inc()
        self._inference_s.labels(model, version, role).observe(latency_ms / 1e3)

    def answered(self, *, model: str | None, status: int, seconds: float) -> None:
        """Count one answer; `model` is None when the request names none that is served."""
        self._answers.labels(str(status)).inc()
        if model is not None:
            self._request_s.labels(model).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _StateCollector(Collector):
    """Reads what router and log know already when Prometheus asks, so that nothing is counted twice."""

    def __init__(self, *, router: Router, log: PredictionLog) -> None:
        self._router = router
        self._log = log

    def collect(self) -> Iterator[Metric]:
        counters = self._log.counters()
        rows = CounterMetricFamily("tradewind_prediction_log_rows", "Rows of the prediction log", labels=["outcome"])
        rows.add_metric(["written"], counters["written_rows"])
        rows.add_metric(["dropped"], counters["dropped_rows"])
        yield rows
        yield GaugeMetricFamily("tradewind_prediction_log_pending_rows", "Rows in memory", counters["pending_rows"])
        share = GaugeMetricFamily(
            "tradewind_route_share_pct", "Share of a model's requests", labels=["model", "version", "role"]
        )
        for model, state in self._router.states.items():
            routes = state.routes
            if routes.champion is not None:
                share.add_metric([model, routes.champion, "champion"], 100 - routes.canary_share_pct)
            if routes.canary is not None:
                share.add_metric([model, routes.canary, "canary"], routes.canary_share_pct)
            if routes.shadow is not None:
                share.add_metric([model, routes.shadow, "shadow"], 0)
        yield share
