"""The places that serve models, each with a real model server behind it, for the tests that all of them must pass."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.rollout.kserve.services import Services
from include.rollout.kserve.settings import KServeSettings
from include.rollout.kserve.target import KServeTarget
from include.rollout.local import LocalTarget
from include.rollout.prometheus import Prometheus
from operators.hooks.kubernetes_objects import KubernetesObjects
from tests.kserve.cluster import SERVICES, KServeCluster, scripted_kserve
from tests.kserve.prometheus_api import ScriptedPrometheus
from tests.kubernetes.clock import SteppedClock
from tests.kubernetes.faults import Fault
from tests.kubernetes.store import Key
from tests.running import TOKEN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from include.rollout.target import DeploymentTarget
    from tests.running import RunningModelServer

SCRAPE_INTERVAL_S = 30
SERVICE = Key("serving.kserve.io/v1beta1", SERVICES, "ml", "flight-delays")


@dataclass(kw_only=True)
class Place:
    """A target, and what the tests do to what is behind it.

    Attributes:
        target: What is tested.
        server: The model server that answers.
        catch_up: Lets pass what the place needs until its counters tell of all requests so far.
        silence: Lets the place answer no more.
    """

    target: DeploymentTarget
    server: RunningModelServer
    catch_up: Callable[[], None]
    silence: Callable[[], None]


@dataclass(kw_only=True)
class OnKServe(Place):
    """The cluster too.

    Attributes:
        cluster: Its objects, and what befalls them.
        prometheus: Where its counters are.
    """

    target: KServeTarget
    cluster: KServeCluster
    prometheus: ScriptedPrometheus

    @property
    def clock(self) -> SteppedClock:
        """Return the cluster's time."""
        assert isinstance(self.cluster.clock, SteppedClock)
        return self.cluster.clock

    def scrape(self) -> None:
        """Let Prometheus scrape now, and again after its interval."""
        for _ in range(2):
            self.clock.at += 1
            self.prometheus.scrape(self.server.url, at_s=self.clock.now())
            self.clock.at += SCRAPE_INTERVAL_S


def local_place(server: RunningModelServer) -> Place:
    return Place(target=LocalTarget(client=server.client), server=server, catch_up=lambda: None, silence=server.kill)


@contextmanager
def kserve_place(
    server: RunningModelServer, *, mode: str, monkeypatch: pytest.MonkeyPatch, is_0_20: bool = True
) -> Iterator[OnKServe]:
    kubernetes, cluster = scripted_kserve(server, is_0_20=is_0_20)
    with kubernetes, ScriptedPrometheus() as prometheus:
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(kubernetes.connection))
        monkeypatch.setattr("operators.hooks.kubernetes_objects.pause_s", lambda *_: 0.0)
        raw = {
            "namespace": "ml",
            "image": "registry.example/tradewind-serve:1",
            "mode": mode,
            "token_secret": "tradewind-token",
            "trusted_keys_configmap": "tradewind-keys",
            "env_secret": "lake",
            "service_account": "models",
            "packages_claim": "packages",
            "packages_folder": "/",
            "prometheus_url": prometheus.url,
            "scrape_interval_s": SCRAPE_INTERVAL_S,
            "ready_timeout_s": 100,
            "routes_timeout_s": 30,
            "version_url": server.url,
        }
        settings = KServeSettings.read(raw, conn_id="kserve_default")

        def sleep(seconds: float) -> None:
            place.clock.at += seconds

        services = Services(objects=KubernetesObjects(), settings=settings, now=cluster.clock.now, sleep=sleep)
        place = OnKServe(
            target=KServeTarget(services=services, prometheus=Prometheus(url=prometheus.url), token=TOKEN),
            server=server,
            catch_up=lambda: place.scrape(),  # noqa: PLW0108 - there is no place yet
            silence=lambda: cluster.faults.append(Fault(kind="reset", times=None)),
            cluster=cluster,
            prometheus=prometheus,
        )
        yield place
