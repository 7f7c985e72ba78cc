"""The model server's Prometheus metrics; they only ever grow, unlike the router's counters of one rollout step."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from include.rollout.latency import LATENCY_BOUNDS_MS
from include.serving.counters import WindowCounters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from include.serving.counters import Work
    from include.serving.prediction_log import PredictionLog
    from include.serving.router import Router

LATENCY_BOUNDS_S = tuple(bound / 1e3 for bound in LATENCY_BOUNDS_MS)
_LE = (*map(floatToGoString, LATENCY_BOUNDS_S), "+Inf")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServerMetrics:
    """Counts what the server does, in a registry of its own."""

    def __init__(self, *, router: Router, log: PredictionLog) -> None:
        self.registry = CollectorRegistry()
        self._request_s = Histogram(
            "tradewind_request_seconds",
            "One inference request as its caller waits for it, without the network",
            ("model",),
            buckets=LATENCY_BOUNDS_S,
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
        self._defaults = Counter(
            "tradewind_feature_defaults",
            "Values of store features that were missing and got the declared default",
            ("model", "feature"),
            registry=self.registry,
        )
        self._totals: dict[tuple[str, str, str], WindowCounters] = {}
        self.registry.register(_WorkCollector(self._totals))
        self.registry.register(_StateCollector(router=router, log=log))

    def scored(self, work: Work) -> None:
        """Count one version's work on one request."""
        key = (work.model, work.version, work.role)
        totals = self._totals.get(key)
        if totals is None:
            totals = self._totals[key] = WindowCounters()
        is_ok = work.predictions is not None
        totals.add(is_ok=is_ok, latency_ms=work.latency_ms, disagreement=work.disagreement)

    def feature_defaulted(self, model: str, feature: str, num_values: int) -> None:
        """Count values of a store feature that were missing; called by any thread."""
        self._defaults.labels(model, feature).inc(num_values)

    def answered(self, *, model: str | None, status: int, seconds: float) -> None:
        """Count one answer; `model` is None when the request names none that is served."""
        self._answers.labels(str(status)).inc()
        if model is not None:
            self._request_s.labels(model).observe(seconds)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _WorkCollector(Collector):
    """Tells what each version did in each role, as the router's counters do for one step of a rollout."""

    def __init__(self, totals: Mapping[tuple[str, str, str], WindowCounters]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version", "role"]
        scored = CounterMetricFamily(
            "tradewind_scored_requests",
            "Requests by the version that scored them, or failed to",
            labels=[*labels, "outcome"],
        )
        latency = HistogramMetricFamily(
            "tradewind_lone_request_seconds", "Encoding and inference of a request that was timed, alone", labels=labels
        )
        pairs = CounterMetricFamily(
            "tradewind_compared_requests", "Requests that shadow and champion both scored", labels=labels
        )
        differing = CounterMetricFamily(
            "tradewind_disagreements", "Over these, the sum of the shares of rows predicted differently", labels=labels
        )
        for key, found in self._totals.items():
            scored.add_metric([*key, "ok"], found.requests - found.errors)
            scored.add_metric([*key, "error"], found.errors)
            buckets = list(zip(_LE, accumulate(found.latency_counts), strict=True))
            latency.add_metric(key, buckets, sum_value=found.latency_sum_ms / 1e3)
            pairs.add_metric(key, found.num_pairs)
            differing.add_metric(key, found.num_disagreements)
        yield from (scored, latency, pairs, differing)


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
        waiting = {
            "pending_rows": "Rows that wait for their files, sampled ones too",
            "sampled_rows": "Rows kept as samples, in memory; while there are any, not every row is kept",
            "journal_bytes": "Bytes of predictions that wait for their files",
        }
        for name, text in waiting.items():
            yield GaugeMetricFamily(f"tradewind_prediction_log_{name}", text, counters[name])
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
