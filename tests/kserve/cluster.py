"""A scripted cluster with KServe: its webhook, and what its controllers make of an InferenceService.

Behind it is a real model server: what a revision serves is loaded there, and the traffic's shares are its routes. The
rules are those of kserve/kserve: ksvc_reconciler.go and inference_service_status.go at v0.16 for Knative mode; for
Standard mode what pull request 5672, its tests and pull request 5984 say of v0.20.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping  # noqa: TC003 - dataclass fields
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from include.errors import TradewindError
from tests.kserve.fields import CRD_0_20, SPEC, SPEC_0_20, check, check_pod
from tests.kubernetes.clock import SteppedClock, timestamp
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.server import ScriptedKubernetes
from tests.kubernetes.store import ApiError, Key, Object
from tests.running import MODEL, RunningModelServer

SERVICES = "inferenceservices"
REVISIONS = Key("serving.knative.dev/v1", "revisions", "ml", "")
_DEFINITION = Key("apiextensions.k8s.io/v1", "customresourcedefinitions", "", "inferenceservices.serving.kserve.io")
_ALL = 100
_NOT_OF_PODS = ("minReplicas", "canaryTrafficPercent")
_READY_S = 20.0
_ROUTED_S = 3.0
_BEGAN_AT = 1_700_000_000.0


@dataclass(kw_only=True)
class KServeCluster(Cluster):
    """A cluster with KServe.

    Attributes:
        server: The model server behind it.
        is_0_20: Whether it knows `spec.canary`.
        refusal: What its webhook says to any object; empty: nothing.
        broken: Version -> why its pods do not get ready.
    """

    server: RunningModelServer
    is_0_20: bool = True
    refusal: str = ""
    broken: dict[str, str] = field(default_factory=dict)
    num_applied: int = 0
    _templates: dict[str, Object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin with KServe installed."""
        super().__post_init__()
        definition = copy.deepcopy(CRD_0_20)
        if not self.is_0_20:
            schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            del schema["properties"]["spec"]["properties"]["canary"]
        self.store.create(_DEFINITION, definition)

    def patch(self, key: Key, body: Any) -> Object:
        """Apply a service as the API server does for its one manager; patch all else."""
        if key.kind != SERVICES:
            return super().patch(key, body)
        self._admit(key, body)
        self.num_applied += 1
        found = self.store.objects.get(key)
        if found is None:
            created = {**copy.deepcopy(body), "status": {}}
            created["metadata"].pop("resourceVersion", None)
            self.store.create(key, created)
            found = self.store.objects[key]
            found["metadata"]["generation"] = 0
        given = body["metadata"].get("resourceVersion")
        if given and given != found["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", f"the object has been modified; got {given}")
        if found["metadata"]["generation"] and found["spec"] == body["spec"]:
            return found
        found["spec"] = copy.deepcopy(body["spec"])
        found["metadata"]["generation"] += 1
        found["metadata"]["managedFields"] = [
            {"manager": "tradewind", "operation": "Apply", "time": timestamp(self.store.agenda.at)},
            {"manager": "manager", "operation": "Update", "time": timestamp(self.store.agenda.at + 3600)},
        ]
        self.store.changed(key)
        self._later(0.5, key)
        return self.store.objects[key]

    def _later(self, delay_s: float, key: Key) -> None:
        self.store.agenda.after(delay_s, lambda: self._reconcile(key))

    def _admit(self, key: Key, body: Object) -> None:
        """Do what the schema and the validating webhook do."""
        mode = body["metadata"]["annotations"]["serving.kserve.io/deploymentMode"]
        said = self.refusal
        try:
            check(body["spec"], SPEC_0_20 if self.is_0_20 else SPEC)
            for each in [body["spec"]["predictor"], *(c["predictor"] for c in body["spec"].get("canary", ()))]:
                check_pod(each)
        except TypeError as error:
            said = str(error)
        if body["spec"].get("canary"):
            said = said or _canary_problem(body["spec"], self.store.objects.get(key, {}).get("spec"), mode=mode)
        if said:
            name = "inferenceservice.kserve-webhook-server.validator"
            raise ApiError(400, "BadRequest", f'admission webhook "{name}" denied the request: {said}')

    def _reconcile(self, key: Key) -> None:
        found = self.store.objects.get(key)
        if found is None:
            return
        before = json.dumps([found["status"], found["spec"]], sort_keys=True)
        if found["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Serverless":
            shares = self._knative(key, found)
        else:
            shares = self._standard(key, found)
        self._route(shares)
        if json.dumps([found["status"], found["spec"]], sort_keys=True) != before:
            self.store.changed(key)
            self._later(_ROUTED_S, key)

    def _knative(self, key: Key, service: Object) -> Mapping[str, int]:
        """Make revisions, follow them, and share the traffic; return version -> per cent."""
        predictor, status = service["spec"]["predictor"], service["status"]
        component = status.setdefault("components", {}).setdefault("predictor", {})
        template = {
            "of": {name: value for name, value in predictor.items() if name != "canaryTrafficPercent"},
            "with": service["metadata"]["annotations"],  # which is why no state may be kept there
        }
        revisions = self.store.select(REVISIONS)
        if not revisions or revisions[-1]["template"] != template:
            number = 1 + max((each["number"] for each in revisions), default=0)
            component["latestCreatedRevision"] = self._revise(key, template, number)
        ready = [each for each in self.store.select(REVISIONS) if _ready(each) == "True"]
        created = self.store.objects[REVISIONS._replace(name=component["latestCreatedRevision"])]
        if ready:
            component["latestReadyRevision"] = ready[-1]["metadata"]["name"]
            _share(component, predictor.get("canaryTrafficPercent"), url=self.server.url)
        failed = _ready(created) == "False"
        unready = "False" if failed else "Unknown"
        said = (
            {} if not failed else {"reason": "RevisionFailed", "message": created["status"]["conditions"][0]["message"]}
        )
        state = {"status": "True"} if created in ready else {"status": unready, **said}
        status["conditions"] = [{"type": kind, **state} for kind in ("PredictorReady", "Ready")]
        status["url"] = self.server.url
        versions = {each["metadata"]["name"]: each["metadata"]["annotations"]["tradewind/version"] for each in ready}
        shares: dict[str, int] = {}
        for each in component.get("traffic", ()):
            version = versions[each["revisionName"]]
            shares[version] = shares.get(version, 0) + each["percent"]
        return shares

    def _revise(self, key: Key, template: Object, number: int) -> str:
        predictor = template["of"]
        at = REVISIONS._replace(name=f"{key.name}-predictor-{number:05d}")
        body = {
            "apiVersion": REVISIONS.group,
            "kind": "Revision",
            "metadata": {
                "labels": {"serving.kserve.io/inferenceservice": key.name},
                "annotations": {**template["with"], **predictor["annotations"]},
            },
            "template": copy.deepcopy(template),
            "number": number,
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]},
        }
        self.store.create(at, body)

        def start() -> None:
            problem = self._load(predictor)
            state = {"status": "False", "reason": "ContainerMissing", "message": problem}
            found = self.store.objects.get(at)
            if found is not None:
                found["status"]["conditions"] = [{"type": "Ready", **(state if problem else {"status": "True"})}]
                self.store.changed(at)
            self._reconcile(key)

        self.store.agenda.after(_READY_S, start)
        return at.name

    def _standard(self, key: Key, service: Object) -> Mapping[str, int]:
        """Follow the predictor and its canaries; return version -> per cent of those that are ready."""
        spec, status = service["spec"], service["status"]
        known = status.setdefault("deployments", {})
        wanted = {each["name"]: each for each in (spec["predictor"], *(c["predictor"] for c in spec.get("canary", ())))}
        for name, predictor in wanted.items():
            template = {field: value for field, value in predictor.items() if field not in _NOT_OF_PODS}
            if name not in known or self._templates[name] != template:
                known[name], self._templates[name] = "starting", copy.deepcopy(template)
                self.store.agenda.after(_READY_S, partial(self._started, key, name, predictor))
        for name in set(known) - set(wanted):
            del known[name]
        status["canaryStatuses"] = [
            {
                "name": each["predictor"]["name"],
                "ready": known[each["predictor"]["name"]] == "ready",
                "trafficPercent": each["trafficPercent"],
            }
            for each in spec.get("canary", ())
        ]
        state = known[spec["predictor"]["name"]]
        is_ready = {"ready": "True", "starting": "Unknown"}.get(state, "False")
        not_ready = [known[each["name"]] for each in status["canaryStatuses"] if not each["ready"]]
        status["conditions"] = [
            {"type": "PredictorReady", "status": is_ready, "message": state},
            {"type": "CanaryReady", "status": "False" if not_ready else "True", "message": "; ".join(not_ready)},
        ]
        shares = {
            wanted[each["name"]]["annotations"]["tradewind/version"]: each["trafficPercent"]
            for each in status["canaryStatuses"]
            if each["ready"]
        }
        if is_ready == "True":
            stable = spec["predictor"]["annotations"]["tradewind/version"]
            shares[stable] = _ALL - sum(shares.values())
        return shares

    def _started(self, key: Key, name: str, predictor: Object) -> None:
        status = self.store.objects[key]["status"]
        if name in status["deployments"]:
            status["deployments"][name] = self._load(predictor) or "ready"
            self.store.changed(key)
            self._reconcile(key)

    def _load(self, predictor: Object) -> str:
        """Start a pod: load the package into the model server; return why it does not get ready."""
        told = predictor["annotations"]
        version = told["tradewind/version"]
        if version in self.broken:
            return self.broken[version]
        try:
            self.server.client.load(
                model=MODEL,
                version=version,
                uri=told["tradewind/package-uri"],
                digest=told["tradewind/package-digest"],
            )
        except TradewindError as error:
            return str(error)
        return ""

    def _route(self, shares: Mapping[str, int]) -> None:
        """Let the model server share requests as the cluster's gateway would."""
        by_share = sorted(((share, version) for version, share in shares.items() if share), reverse=True)
        if not by_share:
            return
        champion, canary = by_share[0][1], by_share[1] if len(by_share) > 1 else None
        self.server.client.set_routes(
            model=MODEL,
            champion=champion,
            canary=canary[1] if canary else None,
            canary_share_pct=float(canary[0]) if canary else 0.0,
        )


def scripted_kserve(server: RunningModelServer, **how: Any) -> tuple[ScriptedKubernetes, KServeCluster]:
    """Return a scripted Kubernetes with KServe whose time passes when a test says so."""
    kubernetes = ScriptedKubernetes(clock=SteppedClock(_BEGAN_AT))
    kubernetes.cluster = cluster = KServeCluster(clock=SteppedClock(_BEGAN_AT), server=server, **how)
    return kubernetes, cluster


def _ready(revision: Object) -> str:
    return str(revision["status"]["conditions"][0]["status"])


def _share(component: Object, share_pct: int | None, *, url: str) -> None:
    """Give the newest ready revision its share, and tell which one was last rolled out."""
    newest, rolled_out = component["latestReadyRevision"], component.get("latestRolledoutRevision")
    targets: list[Object] = [{"latestRevision": True, "percent": _ALL, "revisionName": newest, "tag": "latest"}]
    if share_pct is not None and rolled_out:
        targets[0]["percent"] = share_pct
        if share_pct < _ALL:
            rest = {"latestRevision": False, "percent": _ALL - share_pct, "revisionName": rolled_out, "tag": "prev"}
            targets.append(rest)
    component["traffic"] = [{**each, "url": url} for each in targets]
    if rolled_out != newest and targets[0]["percent"] == _ALL:
        component["previousRolledoutRevision"] = rolled_out
        component["latestRolledoutRevision"] = newest
    elif rolled_out == newest == component["latestCreatedRevision"] and targets[0]["percent"] < _ALL:
        of_newest = sum(each["percent"] for each in targets if each["revisionName"] == newest)
        if of_newest == _ALL and component.get("previousRolledoutRevision"):
            component["latestRolledoutRevision"] = component["previousRolledoutRevision"]


def _canary_problem(spec: Object, before: Object | None, *, mode: str) -> str:
    """Return what the webhook of v0.20 says against canaries; empty: nothing."""
    stable, canaries = spec["predictor"], spec["canary"]
    names = [each["predictor"].get("name") for each in canaries]
    renamed = before is not None and before["predictor"].get("name") != stable.get("name")
    problems = {
        "canary is only supported in Standard deployment mode": mode != "Standard",
        "canary requires a stable predictor with a model": "model" not in stable,
        "predictor.name is required": not all(names),
        "predictor.name is duplicated": len(set(names)) < len(names),
        "predictor.name conflicts with stable": stable.get("name") in names,
        "the sum of trafficPercent must be <= 100": sum(each["trafficPercent"] for each in canaries) > _ALL,
        "must not exceed stable's minReplicas": any(
            each["predictor"].get("minReplicas", 1) > stable.get("minReplicas", 1) for each in canaries
        ),
        "predictor.name change requires a model change": renamed
        and before is not None
        and before["predictor"]["model"] == stable["model"],
    }
    return next((said for said, is_so in problems.items() if is_so), "")
