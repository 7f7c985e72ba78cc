"""Counters of versions from Prometheus: what the servers of a cluster counted together since a moment.

`increase()` extrapolates to the ends of its range and misses a series' first value, so its counts are no counts. Here
each series' last value has the one at the beginning taken off, to the request; a series that began later began at zero;
one that was reset, as by a restarted container, is summed sample by sample, and so are all others of that process,
whether their values fell or not; one that has ended keeps what it had. So counts never run backwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http.client import HTTPException
from itertools import pairwise
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from include.errors import ServiceError
from include.rollout.decision import Counters
from include.rollout.latency import LATENCY_BOUNDS_MS, NUM_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

REQUESTS = "tradewind_scored_requests_total"
LATENCIES = "tradewind_lone_request_seconds_bucket"
MIN_LOOKBACK_S = 60
_TIMEOUT_S = 20.0
_SHOWN_CHARS = 300

Series = frozenset[tuple[str, str]]
Sample = tuple[float, float]
"""Seconds since 1970, and the value."""


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """Asks one Prometheus over its HTTP API.

    Args:
        url: Its address.
        token: Bearer token, if it needs one.
        labels: Labels that the series must have beside model and version.
        lookback_s: How far before the beginning a series' value may lie: one that lies further back is not taken off,
            so it is longer than an outage of Prometheus.
    """

    url: str
    token: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    lookback_s: float = 3600.0

    def counters(self, *, model: str, versions: Iterable[str], since_s: float, now_s: float) -> Mapping[str, Counters]:
        """Return what each version did, whatever its role in its own process, but for callers who named it.

        Args:
            model: The model.
            versions: Its versions.
            since_s: Seconds since 1970.
            now_s: Seconds since 1970.

        Raises:
            ServiceError: Prometheus does not answer.
        """
        wanted = sorted(set(versions))
        if not wanted or now_s <= since_s:
            return {}
        named = {"__name__": f"{REQUESTS}|{LATENCIES}", "version": "|".join(wanted)}
        chosen = [f'{name}=~"{value}"' for name, value in named.items()]
        chosen += [f'{name}="{value}"' for name, value in {**self.labels, "model": model}.items()]
        chosen.append('role!="named"')  # callers chose that version themselves: no evidence
        counted = self._increases("{" + ",".join(chosen) + "}", since_s=since_s, now_s=now_s)
        return {version: _counters(counted, version) for version in wanted}

    def _increases(self, selector: str, *, since_s: float, now_s: float) -> dict[Series, float]:
        """Return by how much each series has grown; the beginning is the same to the millisecond at each call."""
        lookback_ms = round(max(self.lookback_s, MIN_LOOKBACK_S) * 1e3)
        age_ms = max(1, round((now_s - since_s) * 1e3))
        last = _values(self._ask(f"last_over_time({selector}[{age_ms}ms])", now_s))
        first = _values(self._ask(f"last_over_time({selector}[{lookback_ms}ms])", since_s))
        found = {series: value - first.get(series, 0.0) for series, value in last.items()}
        reset = _values(self._ask(f"resets({selector}[{age_ms + lookback_ms}ms]) > 0", now_s))
        if reset:
            samples: dict[Series, dict[Series, list[Sample]]] = {}
            for each in self._ask(f"{selector}[{age_ms}ms]", now_s):
                series = _series(each["metric"])
                values = [(float(at_s), float(value)) for at_s, value in each["values"]]
                samples.setdefault(_process(series), {})[series] = [(since_s, first.get(series, 0.0)), *values]
            for process in {_process(series) for series in reset} & set(samples):
                found |= _grown(samples[process])
        return found

    def _ask(self, query: str, at_s: float) -> Sequence[Mapping[str, Any]]:
        """Return the result of an instant query."""
        body = urlencode({"query": query, "time": f"{at_s:.3f}"}).encode()
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        request = Request(f"{self.url.rstrip('/')}/api/v1/query", data=body, headers=headers)  # noqa: S310 - as set up
        try:
            with urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - http or https, by the settings
                answer = json.load(response)
            return list(answer["data"]["result"])
        except HTTPError as error:
            raise self._silent(f"{error.code} {_said(error)}") from error
        except (URLError, HTTPException, OSError, ValueError, KeyError, TypeError) as error:
            raise self._silent(repr(error)) from error

    def _silent(self, said: str) -> ServiceError:
        return ServiceError(
            f"Prometheus at {self.url} must answer a query within {_TIMEOUT_S:g} s; got {said}. The traffic stays as "
            "it is; nothing is decided without evidence. It is asked again."
        )


def _said(error: HTTPError) -> str:
    """Return the beginning of an error's text; empty: it broke off."""
    try:
        return error.read(_SHOWN_CHARS).decode(errors="replace")
    except (HTTPException, OSError):
        return ""


def _series(metric: Mapping[str, str]) -> Series:
    """Return the labels that tell a series from others; functions drop its name."""
    return frozenset((name, value) for name, value in metric.items() if name != "__name__")


def _values(result: Iterable[Mapping[str, Any]]) -> dict[Series, float]:
    return {_series(each["metric"]): float(each["value"][1]) for each in result}


def _process(series: Series) -> Series:
    """Return the labels that the series of one process and version share: they begin, and begin anew, together."""
    return frozenset((name, value) for name, value in series if name not in ("outcome", "le"))


def _grown(samples: Mapping[Series, Sequence[Sample]]) -> dict[Series, float]:
    """Return by how much each counter of a process has grown: where one falls, all of them began at zero again.

    >>> ok, error = frozenset({("outcome", "ok")}), frozenset({("outcome", "error")})
    >>> grown = _grown({ok: [(0, 5), (30, 8), (60, 2), (90, 3)], error: [(0, 0), (30, 1), (60, 4), (90, 4)]})
    >>> grown[ok], grown[error]
    (6, 5)
    """
    pairs = {series: list(pairwise(values)) for series, values in samples.items()}
    restarts_s = {at_s for each in pairs.values() for (_, before), (at_s, after) in each if after < before}
    return {
        series: sum(after if at_s in restarts_s else after - before for (_, before), (at_s, after) in each)
        for series, each in pairs.items()
    }


def _counters(counted: Mapping[Series, float], version: str) -> Counters:
    """Return the sums over all processes that served a version."""
    requests: dict[str, int] = {"ok": 0, "error": 0}
    at_most = [0] * NUM_BUCKETS
    for series, value in counted.items():
        labels = dict(series)
        if labels.get("version") != version:
            continue
        if "outcome" in labels:
            requests[labels["outcome"]] = requests.get(labels["outcome"], 0) + round(value)
        elif (bucket := _bucket(labels["le"])) is not None:
            at_most[bucket] += round(value)
    counts = [after - before for before, after in pairwise([0, *at_most])]
    return Counters(requests=sum(requests.values()), errors=requests["error"], latency_counts=tuple(counts))


def _bucket(upper: str) -> int | None:
    """Return the number of the bucket that ends at so many seconds; None: the servers have other bounds."""
    if upper == "+Inf":
        return NUM_BUCKETS - 1
    return _BUCKETS.get(round(float(upper) * 1e3, 6))


_BUCKETS = {round(bound, 6): number for number, bound in enumerate(LATENCY_BOUNDS_MS)}
