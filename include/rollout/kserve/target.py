"""The deployment target of a cluster with KServe: the InferenceService alone says what serves with which share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from include.errors import BadInputError, NotFoundError, ServiceError
from include.rollout.decision import RolloutState
from include.rollout.kserve.settings import VERSION, require_reachable
from include.rollout.target import KSERVE, Capabilities, GoldenResult
from include.serving.client import ModelServerClient
from include.serving.versions import read_registered

if TYPE_CHECKING:
    from include.rollout.kserve.seen import Object, Routes, Seen
    from include.rollout.kserve.services import Services
    from include.rollout.prometheus import Prometheus
    from include.rollout.target import Artifact

_ALL = 100


@dataclass(frozen=True, kw_only=True)
class KServeTarget:
    """Implements `DeploymentTarget` by one InferenceService a model; a call that was killed is just made again.

    Args:
        services: The namespace's InferenceServices; their clock and Prometheus' should agree to a second.
        prometheus: Where the counters are.
        token: The pods' admin token, for their golden rows.
    """

    services: Services
    prometheus: Prometheus
    token: str = field(default="", repr=False)

    @property
    def capabilities(self) -> Capabilities:
        """Whole per cents, no shadow, and a first version answers at once."""
        return KSERVE

    def deploy(self, artifact: Artifact) -> None:
        """Add a version at 0 %, and wait until KServe has it ready; a first version gets all requests.

        Raises:
            CorruptArtifactError: The package does not match its digest.
            SetupError: No pod can read the package, KServe refuses the object, or the version did not get ready; the
                champion serves on.
        """
        require_reachable(self.services.settings, artifact)
        read_registered(model=artifact.model, version=artifact.version, uri=artifact.uri, digest=artifact.digest)
        seen = self.services.see(artifact.model)
        held, routes = self.services.mode.package_of(seen, artifact.version), self.services.mode.routes(seen)
        if held == artifact.digest and artifact.version in routes.loaded:
            return
        takes_traffic = artifact.version in (routes.champion, routes.canary)
        if takes_traffic and held not in (None, artifact.digest):
            raise BadInputError(
                f"version {artifact.version} of model {artifact.model!r} must keep its package while it takes traffic; "
                "got another one. The routes stay as they were. Register the package as a version of its own."
            )
        if not takes_traffic:  # what is deployed already stays as it is, unless the connection's extra was mended since
            self.services.require_canaries()
            self.services.change(artifact.model, lambda now: self.services.mode.deployed(now, artifact))
        self.services.wait_ready(artifact.model, artifact.version)

    def check(self, *, model: str, version: str) -> GoldenResult:
        """Let a pod of the version score its golden rows, by the version's own address."""
        address = self.services.mode.url(self.services.see(model), version)
        if address is None:
            raise NotFoundError(
                f"version {version} of model {model!r} must have an address of its own; KServe gives none. It takes no "
                "traffic. Let the annotation serving.kserve.io/enable-tag-routing of its service be."
            )
        client = ModelServerClient(base_url=_with_port(address), admin_token=self.token)
        return GoldenResult.from_json(client.golden(model=model, version=version))

    def read(self, *, model: str) -> RolloutState:
        """Return what the service says of the routes, and Prometheus of the requests since they last changed."""
        seen = self.services.see(model)
        routes = self.services.mode.routes(seen)
        if seen.service is None:
            return RolloutState(counters={})
        now_s = self.services.now()
        roles = {routes.champion: "champion", routes.canary: "canary"}
        counted = self.prometheus.counters(
            model=model,
            versions=[version for version in roles if version is not None],
            since_s=seen.changed_at_s + self.services.settings.scrape_interval_s,
            now_s=now_s,
        )
        return RolloutState(
            champion=routes.champion,
            canary=routes.canary,
            canary_share_pct=float(routes.share_pct),
            revision=seen.generation,
            age_s=max(0.0, now_s - seen.changed_at_s),
            counters={(version, roles[version]): found for version, found in counted.items()},
            loaded=routes.loaded,
        )

    def set_shadow(self, *, model: str, version: str | None, if_revision: int | None = None) -> None:  # noqa: ARG002 - none to change
        """Refuse: KServe has no shadow.

        Raises:
            BadInputError: A version was named.
        """
        if version is not None:
            raise BadInputError(
                f"model {model!r} on KServe can't have version {version} as a shadow: KServe has none (kserve#2978). "
                "The traffic stays as it is. Let rollout.strategy be canary."
            )

    def set_share(self, *, model: str, version: str, share_pct: float, if_revision: int | None = None) -> None:
        """Give a share of the requests to a version, in whole per cent, and wait until KServe routes so.

        Raises:
            BadInputError: KServe can't split so.
            NotFoundError: The version is not deployed, or not ready.
        """
        if not 0 < share_pct < _ALL or not float(share_pct).is_integer():
            raise BadInputError(
                f"share of a canary on KServe must be a whole number of per cent within 1 to 99; got {share_pct:g}. "
                "The traffic stays as it is. Mend rollout.steps_pct."
            )
        if self._routes(model).champion == version:
            raise BadInputError(f"version {version} of model {model!r} is the champion; it can't be its own canary.")
        self._give(model, version, int(share_pct), if_revision=if_revision)

    def promote(self, *, model: str, version: str, if_revision: int | None = None) -> None:
        """Give all requests to a version, the newest or the champion before, and wait until KServe routes so.

        Raises:
            NotFoundError: The version is not deployed, or not ready.
        """
        self._give(model, version, _ALL, if_revision=if_revision)

    def withdraw(self, *, model: str, version: str) -> None:
        """Give a canary no requests any more."""
        if self._routes(model).canary == version:
            self._give(model, version, 0)

    def remove(self, *, model: str, version: str) -> None:
        """Delete what a version without traffic has in the cluster; the newest revision goes with the next one.

        Raises:
            BadInputError: It takes traffic.
        """
        routes = self._routes(model)
        if version in (routes.champion, routes.canary):
            raise BadInputError(
                f"version {version} of model {model!r} must take no traffic to be removed; it does. Nothing was "
                "changed. Promote or withdraw first."
            )
        seen = self.services.see(model)
        if self.services.mode.without(seen, version) is not None:
            self.services.change(model, lambda now: self.services.mode.without(now, version) or now.spec)
        for each in seen.revisions:
            named = each["metadata"]
            if (named.get("annotations") or {}).get(VERSION) == version and not _is_newest(seen, named["name"]):
                self.services.objects.delete(f"{self.services.revisions}/{named['name']}", uid=named.get("uid"))

    def _routes(self, model: str) -> Routes:
        return self.services.mode.routes(self.services.see(model))

    def _give(self, model: str, version: str, share_pct: int, *, if_revision: int | None = None) -> None:
        """Give a share unless the version has it, and wait until the traffic is so."""

        def wanted(now: Seen) -> Object:
            routed = self.services.mode.routes(now)
            if _has(routed, version, share_pct):
                return now.spec  # by a call whose answer was lost, or by somebody since the routes were read
            if if_revision not in (None, now.generation):
                raise ServiceError(
                    f"routes of model {model!r} must still be revision {if_revision}; got {now.generation}: somebody "
                    "changed them. They stay as they are. Read them again and retry."
                )
            spec = self.services.mode.given(now, version, share_pct)
            if share_pct and version not in routed.loaded | {routed.champion}:
                raise NotFoundError(
                    f"version {version} of model {model!r} must be ready on KServe to take traffic; got "
                    f"{self.services.mode.problem(now, version)}. The traffic stays as it was. Deploy it again."
                )
            return spec

        if not _has(self._routes(model), version, share_pct):
            self.services.change(model, wanted)
        limit_s = self.services.settings.routes_timeout_s
        self.services.wait(model, self.services.mode.is_settled, limit_s, what="the traffic as it was asked for")


def _has(routes: Routes, version: str, share_pct: int) -> bool:
    """Return whether a version has a share already."""
    if share_pct == _ALL:
        return routes.champion == version and routes.canary is None
    if share_pct == 0:
        return routes.canary != version
    return routes.canary == version and routes.share_pct == share_pct


def _is_newest(seen: Seen, revision: str) -> bool:
    component = (seen.status.get("components") or {}).get("predictor") or {}
    return revision in (component.get("latestCreatedRevision"), component.get("latestReadyRevision"))


def _with_port(address: str) -> str:
    parts = urlsplit(address)
    if parts.port is not None:
        return address
    port = 443 if parts.scheme == "https" else 80
    return parts._replace(netloc=f"{parts.hostname}:{port}").geturl()
