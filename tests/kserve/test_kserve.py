"""What a rollout on KServe meets that no other place has: a webhook, revisions that never get ready, other writers."""

from __future__ import annotations

import copy
import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from include.errors import BadInputError, NotFoundError, ServiceError, SetupError
from include.rollout.kserve.settings import KServeSettings
from include.rollout.kserve.target import KServeTarget
from include.rollout.local import LocalTarget
from include.rollout.target import Artifact
from include.spec import load_spec
from operators.rollouts import target_of
from tests.kserve.cluster import REVISIONS
from tests.kserve.places import SERVICE, OnKServe, kserve_place
from tests.kubernetes.faults import Fault
from tests.kubernetes.store import Key
from tests.tiny_models import tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from include.rollout.kserve.seen import Object, Seen
    from tests.running import RunningModelServer

MODEL = "flight_delays"


class CutOffError(Exception):
    """The worker was killed here."""


class Killed:
    """Objects of a worker that is killed right after its n-th call."""

    def __init__(self, objects: Any, *, after: int) -> None:
        self._objects = objects
        self._left = after

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            answer = getattr(self._objects, name)(*given, **named)
            self._left -= 1
            if self._left == 0:
                raise CutOffError
            return answer

        return call


@pytest.fixture(params=["Knative", "Standard"])
def place(
    request: pytest.FixtureRequest, model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OnKServe]:
    with kserve_place(model_server, mode=request.param, monkeypatch=monkeypatch) as found:
        yield found


@pytest.fixture
def knative(model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnKServe]:
    with kserve_place(model_server, mode="Knative", monkeypatch=monkeypatch) as found:
        yield found


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], Artifact]:
    def make(version: str) -> Artifact:
        package = tiny_package(tmp_path / version, bias=-0.1 * int(version))
        return Artifact(model=MODEL, version=version, uri=package.uri, digest=package.digest)

    return make


def test_a_version_that_never_gets_ready_is_an_error_that_says_why(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    place.cluster.broken["2"] = "container exited with 78: admin token must be in /etc/tradewind/token"
    with pytest.raises(SetupError, match=r"ready on KServe within 100 s; got .*exited with 78(.|\n)*serves on"):
        place.target.deploy(artifact("2"))
    state = place.target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", None, frozenset({"1"}))
    place.target.deploy(artifact("3"))
    assert place.target.read(model=MODEL).loaded == {"1", "3"}


def test_what_was_mended_in_the_connection_is_deployed_when_the_task_is_cleared(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    place.cluster.broken["2"] = "OOMKilled"
    with pytest.raises(SetupError, match="clear the task"):
        place.target.deploy(artifact("2"))
    del place.cluster.broken["2"]
    services = place.target.services
    mended = services.settings.model_copy(update={"resources": {"limits": {"memory": "4Gi"}}})
    target = replace(place.target, services=replace(services, settings=mended))
    target.deploy(artifact("2"))
    target.set_share(model=MODEL, version="2", share_pct=10)
    state = target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", "2", {"1", "2"})
    assert "4Gi" in json.dumps(place.cluster.store.objects[SERVICE]["spec"])


def test_a_champion_on_another_image_is_the_champion(knative: OnKServe, artifact: Callable[[str], Artifact]) -> None:
    knative.target.deploy(artifact("1"))
    knative.target.promote(model=MODEL, version="1")

    def on_another_image(now: Seen) -> Object:  # as `kubectl edit inferenceservice` does
        spec = copy.deepcopy(now.spec)
        spec["predictor"]["containers"][0]["image"] = "registry.example/tradewind-serve:next"
        return spec

    knative.target.services.change(MODEL, on_another_image)
    knative.catch_up()
    state = knative.target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", None, {"1"})
    knative.target.deploy(artifact("2"))
    knative.target.set_share(model=MODEL, version="2", share_pct=10)
    state = knative.target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("1", "2", {"1", "2"})
    component = knative.cluster.store.objects[SERVICE]["status"]["components"]["predictor"]
    shares = {each["revisionName"]: each["percent"] for each in component["traffic"] if each.get("percent")}
    _, on_another, second = sorted(each["metadata"]["name"] for each in knative.cluster.store.select(REVISIONS))
    assert shares == {on_another: 90, second: 10}


def test_a_version_that_is_not_ready_gets_no_traffic(place: OnKServe, artifact: Callable[[str], Artifact]) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    place.cluster.broken["2"] = "image pull failed"
    with pytest.raises(SetupError):
        place.target.deploy(artifact("2"))
    before = json.dumps(place.cluster.store.objects[SERVICE]["spec"])
    refused = (
        r"version 2 of model 'flight_delays' must be ready on KServe(.|\n)*image pull failed(.|\n)*Deploy it again"
    )
    with pytest.raises(NotFoundError, match=refused):
        place.target.set_share(model=MODEL, version="2", share_pct=10)
    with pytest.raises(NotFoundError, match=refused):
        place.target.promote(model=MODEL, version="2")
    assert json.dumps(place.cluster.store.objects[SERVICE]["spec"]) == before


def test_a_cluster_that_knows_no_revisions_for_a_moment_gives_a_new_version_no_traffic(
    knative: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    for version in ("1", "2"):
        knative.target.deploy(artifact(version))
        knative.target.promote(model=MODEL, version=version)
    knative.target.promote(model=MODEL, version="1")  # so that only the revisions say who the champion is
    before = json.dumps(knative.cluster.store.objects[SERVICE]["spec"])
    knative.cluster.faults.append(Fault(verb="GET", path="revisions$", code=404, times=None))
    with pytest.raises(ServiceError, match=r"must be answered in mode Knative; got 404(.|\n)*tried again"):
        knative.target.deploy(artifact("3"))
    assert json.dumps(knative.cluster.store.objects[SERVICE]["spec"]) == before


def test_the_reason_of_a_pod_comes_first(knative: OnKServe, artifact: Callable[[str], Artifact]) -> None:
    knative.cluster.broken["1"] = "Revision failed"
    waiting = {"reason": "ErrImagePull", "message": "pull access denied"}
    pod = {
        "metadata": {
            "labels": {"serving.kserve.io/inferenceservice": "flight-delays"},
            "annotations": {"tradewind/version": "1"},
        },
        "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]},
    }
    knative.cluster.store.create(Key("v1", "pods", "ml", "flight-delays-predictor-00001-x"), pod)
    with pytest.raises(SetupError, match=r"got image: ErrImagePull.*pull access denied"):
        knative.target.deploy(artifact("1"))


def test_a_refusal_by_the_webhook_changes_nothing(place: OnKServe, artifact: Callable[[str], Artifact]) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    before = json.dumps(place.cluster.store.objects[SERVICE]["spec"])
    place.cluster.refusal = "resources must have a limit of cpu"
    with pytest.raises(SetupError, match=r"must accept InferenceService ml/flight-delays; got: .*limit of cpu"):
        place.target.deploy(artifact("2"))
    assert json.dumps(place.cluster.store.objects[SERVICE]["spec"]) == before
    assert place.target.read(model=MODEL).champion == "1"


@pytest.mark.parametrize(("code", "said"), [(403, "scripted 403"), (404, "is KServe installed")])
def test_other_refusals_say_their_reason(
    knative: OnKServe, artifact: Callable[[str], Artifact], code: int, said: str
) -> None:
    knative.cluster.faults.append(Fault(verb="PATCH", code=code, times=None))
    with pytest.raises(SetupError, match=rf"must accept InferenceService(.|\n)*{said}(.|\n)*Nothing was changed"):
        knative.target.deploy(artifact("1"))
    assert SERVICE not in knative.cluster.store.objects


def test_what_somebody_else_changed_meanwhile_is_read_again(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    def touch() -> None:
        place.cluster.store.changed(SERVICE)

    place.target.deploy(artifact("1"))
    place.cluster.faults.append(Fault(verb="PATCH", kind="slow", times=3, struck=touch))
    place.target.promote(model=MODEL, version="1")
    assert place.target.read(model=MODEL).champion == "1"
    place.cluster.faults.append(Fault(verb="PATCH", code=409, times=2))
    place.target.deploy(artifact("2"))
    assert place.target.read(model=MODEL).loaded == {"1", "2"}


def test_a_version_that_was_deployed_at_the_same_moment_is_not_undone(
    knative: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    knative.target.deploy(artifact("1"))
    knative.target.promote(model=MODEL, version="1")
    knative.target.deploy(artifact("2"))
    predictor = knative.cluster.store.objects[SERVICE]["spec"]["predictor"]

    def deploy_another() -> None:
        predictor["annotations"]["tradewind/version"] = "3"
        knative.cluster.store.changed(SERVICE)

    knative.cluster.faults.append(Fault(verb="PATCH", kind="slow", struck=deploy_another))
    with pytest.raises(NotFoundError, match=r"newest revision, of version 3.*got version 2"):
        knative.target.set_share(model=MODEL, version="2", share_pct=10)
    assert knative.cluster.store.objects[SERVICE]["spec"]["predictor"] is predictor


def test_a_canary_that_is_promoted_while_it_is_withdrawn_stays(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    place.target.deploy(artifact("2"))
    place.target.set_share(model=MODEL, version="2", share_pct=10)
    promoted = place.target.services.mode.given(place.target.services.see(MODEL), "2", 100)

    def promote() -> None:
        place.cluster.store.objects[SERVICE]["spec"] = promoted
        place.cluster.store.changed(SERVICE)

    place.cluster.faults.append(Fault(verb="PATCH", kind="slow", struck=promote))
    place.target.withdraw(model=MODEL, version="2")
    assert place.cluster.store.objects[SERVICE]["spec"] == promoted


def test_a_change_whose_answer_is_lost_is_not_taken_for_somebody_elses(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    place.target.deploy(artifact("1"))
    place.target.promote(model=MODEL, version="1")
    place.target.deploy(artifact("2"))
    known = place.target.read(model=MODEL).revision
    place.cluster.faults.append(Fault(verb="PATCH", kind="reset_after"))
    place.target.set_share(model=MODEL, version="2", share_pct=10, if_revision=known)
    state = place.target.read(model=MODEL)
    assert (state.champion, state.canary, state.canary_share_pct) == ("1", "2", 10.0)


def test_a_rollout_that_is_killed_after_any_call_ends_the_same(
    place: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    first, second = artifact("1"), artifact("2")
    place.target.deploy(first)
    place.target.promote(model=MODEL, version="1")
    steps: list[Callable[[KServeTarget], None]] = [
        lambda target: target.deploy(second),
        lambda target: target.set_share(model=MODEL, version="2", share_pct=10),
        lambda target: target.promote(model=MODEL, version="2"),
    ]
    for step in steps:
        for after in itertools.count(1):
            try:
                step(_killed(place.target, after=after))
                break
            except CutOffError:
                continue
    state = place.target.read(model=MODEL)
    assert (state.champion, state.canary, state.loaded) == ("2", None, frozenset({"1", "2"}))
    if place.target.services.settings.mode == "Knative":  # each needless change of the template would be one more
        assert len(place.cluster.store.select(REVISIONS)) == 2


def test_kserve_before_0_20_has_no_canaries_in_standard_mode(
    model_server: RunningModelServer, monkeypatch: pytest.MonkeyPatch, artifact: Callable[[str], Artifact]
) -> None:
    with kserve_place(model_server, mode="Standard", monkeypatch=monkeypatch, is_0_20=False) as place:
        with pytest.raises(SetupError, match=r"must be v0.20 or later, whose InferenceService has spec.canary"):
            place.target.deploy(artifact("1"))
        assert place.cluster.num_applied == 0


def test_a_canary_takes_whole_per_cents_of_the_newest_revision(
    knative: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    for version in ("1", "2", "3"):
        knative.target.deploy(artifact(version))
        knative.target.promote(model=MODEL, version=version)
    assert knative.target.read(model=MODEL).loaded == {"2", "3"}, "KServe goes back by one revision"
    with pytest.raises(BadInputError, match=r"whole number of per cent within 1 to 99; got 2\.5"):
        knative.target.set_share(model=MODEL, version="2", share_pct=2.5)


def test_counters_of_restarted_and_ended_pods_never_run_backwards(
    knative: OnKServe, artifact: Callable[[str], Artifact]
) -> None:
    knative.target.deploy(artifact("1"))
    knative.target.promote(model=MODEL, version="1")
    knative.clock.at += 1  # the first scrape is before the evidence begins, the second after
    labels = {"__name__": "tradewind_scored_requests_total", "model": MODEL, "version": "1", "outcome": "ok"}
    buckets = {**labels, "__name__": "tradewind_lone_request_seconds_bucket", "le": "+Inf"}
    del buckets["outcome"]
    story: Mapping[str, list[float | None]] = {
        "restarted": [7, 10, 2, 5, 5],
        "ended": [0, 4, 4, None, None],
        "new": [None, None, 3, 4, 6],
    }
    told = []
    for scrape in range(5):
        for instance, values in story.items():
            value = values[scrape]
            if value is not None:
                for named in (labels, buckets):
                    knative.prometheus.add(knative.clock.now(), value, instance=instance, **named)
        knative.clock.at += 30
        counted = knative.target.read(model=MODEL).of("1", "champion")
        told.append((counted.requests, sum(counted.latency_counts)))
    assert told == [(0, 0), (7, 7), (7 + 5, 7 + 5), (7 + 9, 7 + 9), (7 + 11, 7 + 11)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"namespace": None}, "namespace: .*"),
        ({"mode": "Serverless"}, "mode: Input should be 'Knative' or 'Standard'"),
        ({"imag": "x"}, "imag: Extra inputs"),
        ({"image": ""}, "image: needed in Knative mode"),
    ],
)
def test_a_connection_says_what_it_lacks(changes: dict[str, Any], said: str) -> None:
    raw = {"namespace": "ml", "image": "i", "prometheus_url": "http://p:9090", **changes}
    with pytest.raises(SetupError, match=rf"connection 'kserve_default' must say(.|\n)*{said}"):
        KServeSettings.read(raw, conn_id="kserve_default")


def test_a_package_that_no_pod_can_read_is_not_deployed(knative: OnKServe, artifact: Callable[[str], Artifact]) -> None:
    services = knative.target.services
    nowhere = services.settings.model_copy(update={"packages_folder": "/srv/mlflow"})
    target = replace(knative.target, services=replace(services, settings=nowhere))
    with pytest.raises(SetupError, match=r"must be where pods can read it, in S3 or .* below /srv/mlflow/; got /"):
        target.deploy(artifact("1"))
    assert knative.cluster.num_applied == 0


def test_the_spec_chooses_the_place(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "namespace": "ml",
        "image": "i:1",
        "prometheus_url": "http://p:9090",
        "prometheus_token": "hidden-of-prometheus",
    }
    connection = {"conn_type": "kserve", "password": "hidden-of-pods", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_KSERVE_DEFAULT", json.dumps(connection))
    server = {"conn_type": "http", "host": "127.0.0.1", "port": 8081}
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_SERVER_DEFAULT", json.dumps(server))
    spec = load_spec(MODEL)
    assert isinstance(target_of(spec, model_server_conn_id="model_server_default"), LocalTarget)
    elsewhere = spec.rollout.model_copy(update={"target": "kserve", "strategy": "canary"})
    target = target_of(spec.model_copy(update={"rollout": elsewhere}), model_server_conn_id="model_server_default")
    assert isinstance(target, KServeTarget)
    assert (target.token, target.prometheus.token) == ("hidden-of-pods", "hidden-of-prometheus")
    assert "hidden" not in repr(target)


def _killed(target: KServeTarget, *, after: int) -> KServeTarget:
    services = replace(target.services, objects=Killed(target.services.objects, after=after))
    return replace(target, services=services)
