"""How long remote work is waited for: both sides of every limit, without a clock."""

from __future__ import annotations

from typing import Any

import pytest

from include.training.failures import FailureKind, classify
from include.training.interruptions import Interruptions
from include.training.watch import End, Sight, Watch, Watcher

K = FailureKind
POD = Watch(
    owner="/api/v1/namespaces/ml/pods/a", namespace="ml", pending_s=300, running_s=600, grace_s=30, silence_s=100
)
JOB = Watch(owner="/apis/batch/v1/namespaces/ml/jobs/a", namespace="ml", selector="a=b", num_pods=2, pending_s=300)
SECRET = "AWS_SECRET_ACCESS_KEY"


def pod(phase: str, *, ending: bool = False, **status: Any) -> dict[str, Any]:
    metadata = {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}
    metadata |= {"deletionTimestamp": "2026-01-01T00:00:01Z"} if ending else {}
    spec = {"containers": [{"name": "base", "env": [{"name": SECRET, "value": "x"}]}]}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase, **status}}


def sight(found: dict[str, Any] | None, *events: dict[str, Any]) -> Sight:
    return Sight(owner=found, pods=[found] if found else [], events=events)


def unschedulable(at: str = "2026-01-01T00:00:05Z") -> dict[str, Any]:
    return {"reason": "FailedScheduling", "message": "0/3 nodes are available", "lastTimestamp": at}


def job(*conditions: tuple[str, str], suspend: bool = False) -> dict[str, Any]:
    told = [{"type": kind, "status": "True", "reason": reason} for kind, reason in conditions]
    return {"metadata": {"name": "a"}, "spec": {"suspend": suspend}, "status": {"conditions": told}}


def last(watch: Watch, *looks: tuple[float, Sight]) -> End | None:
    watcher, end = Watcher(watch=watch), None
    for now_s, seen in looks:
        assert end is None
        end = watcher.decide(seen, now_s=now_s)
    return end


@pytest.mark.parametrize(
    ("looks", "reason", "kind"),
    [
        ([(0, sight(pod("Pending"))), (299, sight(pod("Pending")))], None, None),
        ([(0, sight(pod("Pending"))), (300, sight(pod("Pending")))], "pending", K.UNSCHEDULABLE),
        ([(0, sight(pod("Pending"), unschedulable("2026-01-01T00:04:59Z")))], None, None),
        ([(0, sight(pod("Pending"), unschedulable("2026-01-01T00:05:00Z")))], "pending", K.UNSCHEDULABLE),
        ([(0, sight(pod("Running"))), (899, sight(pod("Running")))], None, None),
        ([(0, sight(pod("Running"))), (900, sight(pod("Running")))], "too_long", K.DEADLINE),
        ([(0, sight(pod("Running", ending=True))), (89, sight(pod("Running", ending=True)))], None, None),
        ([(0, sight(pod("Running", ending=True))), (90, sight(pod("Running", ending=True)))], "stuck", K.NODE_LOST),
        ([(0, sight(pod("Running"))), (899, sight(pod("Unknown")))], None, None),  # it waits anew, since it has run
        ([(0, sight(pod("Running"))), (5, sight(None))], "gone", None),
        ([(0, sight(pod("Succeeded")))], "ended", None),
        ([(0, sight(pod("Failed", ending=True)))], "ended", None),
    ],
)
def test_each_wait_has_its_limit(
    looks: list[tuple[float, Sight]], reason: str | None, kind: FailureKind | None
) -> None:
    end = last(POD, *looks)
    assert (end.reason if end else None) == reason
    assert (end.failure.kind if end and end.failure else None) == kind


@pytest.mark.parametrize(
    ("owner", "pods", "reason", "kind"),
    [
        (job(), [], None, None),
        (job(("Complete", "Done")), [pod("Succeeded")], "ended", None),
        (job(("Failed", "BackoffLimitExceeded")), [pod("Failed")], "ended", None),
        (job(("Failed", "BackoffLimitExceeded")), [], "ended", K.VANISHED),
        (job(("Failed", "DeadlineExceeded")), [], "ended", K.DEADLINE),
        (job(), [pod("Failed"), pod("Running")], None, None),  # its controller ends the others first
    ],
)
def test_a_job_ends_when_its_controller_says_so(
    owner: dict[str, Any], pods: list[dict[str, Any]], reason: str | None, kind: FailureKind | None
) -> None:
    end = last(JOB, (0, Sight(owner=owner, pods=pods)))
    assert (end.reason if end else None) == reason
    assert (end.failure.kind if end and end.failure else None) == kind


def failed(code: int) -> dict[str, Any]:
    return pod("Failed", containerStatuses=[{"state": {"terminated": {"exitCode": code, "reason": "Error"}}}])


@pytest.mark.parametrize(
    ("code", "other", "reason"),
    [
        (75, pod("Running", ending=True), None),
        (75, pod("Running"), None),
        (75, failed(71), "ended"),
        (75, pod("Pending"), "ended"),
        (71, pod("Running", ending=True), "ended"),
    ],
)
def test_a_pod_that_was_interrupted_waits_for_the_word_of_the_one_that_may_be_the_cause(
    code: int, other: dict[str, Any], reason: str | None
) -> None:
    """Kubernetes before 1.31 calls a Job failed while its other pods still end."""
    owner = job(("Failed", "BackoffLimitExceeded"))
    end = last(JOB, (0, Sight(owner=owner, pods=[failed(code), other])))
    assert (end.reason if end else None) == reason


def test_a_cause_that_comes_after_its_effect_is_the_cause() -> None:
    owner = job(("Failed", "BackoffLimitExceeded"))
    late = [pod("Running", ending=True), failed(71)]
    end = last(JOB, *((5 * look, Sight(owner=owner, pods=[failed(75), other])) for look, other in enumerate(late)))
    assert end is not None
    failure = classify(end.evidence)
    assert failure is not None
    assert failure.kind is K.OUT_OF_MEMORY


@pytest.mark.parametrize("owner", [job(), job(("FailureTarget", "BackoffLimitExceeded"))])
def test_a_pod_that_cannot_say_that_it_ended_holds_its_job_for_its_grace_and_a_minute(owner: dict[str, Any]) -> None:
    seen = Sight(owner=owner, pods=[pod("Failed"), pod("Running", ending=True)])
    limit_s = JOB.grace_s + 60
    assert last(JOB, (0, seen), (limit_s - 1, seen)) is None
    end = last(JOB, (0, seen), (limit_s, seen))
    assert end is not None
    assert end.failure is not None
    assert (end.reason, end.failure.kind) == ("stuck", K.NODE_LOST)
    assert end.pods[1]["metadata"]["deletionTimestamp"]


def test_an_end_that_came_to_nothing_is_not_counted() -> None:
    """As when a queue takes a Job's pods away and admits it again."""
    ending, running = [pod("Running", ending=True)] * 2, [pod("Running")] * 2
    looks = [(0, ending), (80, ending), (90, running), (200, ending), (310, ending)]
    assert last(JOB, *((now_s, Sight(owner=job(), pods=pods)) for now_s, pods in looks)) is None


@pytest.mark.parametrize(
    ("pods", "events", "words"),
    [
        ([pod("Running"), pod("Pending")], [unschedulable()], "FailedScheduling: 0/3 nodes are available"),
        ([pod("Running")], [{"reason": "FailedCreate", "message": "exceeded quota: gpus"}], "exceeded quota: gpus"),
    ],
)
def test_a_gang_runs_when_all_of_its_pods_run(pods: list[Any], events: list[Any], words: str) -> None:
    watcher = Watcher(watch=JOB)
    assert watcher.decide(Sight(owner=job(), pods=pods, events=events), now_s=0) is None
    assert watcher.words.startswith("1 of 2 pods run, and it waits to run: ")
    assert words in watcher.words
    assert watcher.decide(Sight(owner=job(), pods=pods, events=events), now_s=299) is None
    end = watcher.decide(Sight(owner=job(), pods=pods, events=events), now_s=300)
    assert end is not None
    assert (end.reason, end.failure is not None and end.failure.needs_a_person) == ("pending", True)
    whole = Watcher(watch=JOB)
    whole.decide(Sight(owner=job(), pods=[pod("Running"), pod("Succeeded")]), now_s=0)
    assert whole.words == "it runs"
    whole.decide(Sight(owner=job(), pods=[pod("Running")]), now_s=400)  # collected after its success
    assert whole.words == ""


def beside(phase: str, **states: str) -> dict[str, Any]:
    told = [
        {"name": name, "state": {state: {"exitCode": 0} if state == "terminated" else {}}}
        for name, state in states.items()
    ]
    return pod(phase, containerStatuses=told)


@pytest.mark.parametrize(
    ("watch", "pods", "is_over"),
    [
        (POD, [beside("Running", base="running", proxy="running")], False),
        (POD, [beside("Running", base="terminated", proxy="running")], True),
        (POD, [beside("Running", base="running", proxy="terminated")], False),
        (JOB, [beside("Running", base="terminated", proxy="running")], False),
        (JOB, [beside("Running", base="terminated", proxy="running"), beside("Running", base="running")], False),
        (JOB, [beside("Running", base="terminated", proxy="running"), beside("Succeeded", base="terminated")], True),
        (JOB, [beside("Succeeded", base="terminated")] * 2, False),  # its controller says so, and how
    ],
)
def test_a_training_is_over_when_its_trainers_have_ended(watch: Watch, pods: list[Any], is_over: bool) -> None:
    owner = pods[0] if watch is POD else job()
    seen = Sight(owner=owner, pods=pods)
    watcher = Watcher(watch=watch)
    assert watcher.decide(seen, now_s=0) is None  # a pod's phase may come later than the end of its only container
    end = watcher.decide(seen, now_s=5)
    assert (end.reason if end else None) == ("ended" if is_over else None)
    assert end is None or end.evidence.is_over


def of_node(**status: Any) -> dict[str, Any]:
    """Return a pod that has its node and does not run yet."""
    return pod("Pending", conditions=[{"type": "PodScheduled", "status": "True"}], **status)


def init(*states: str, restart: str = "") -> dict[str, Any]:
    """Return a pod on its node with init containers in these states."""
    found = of_node(initContainerStatuses=[{"name": f"init-{n}", "state": {s: {}}} for n, s in enumerate(states)])
    found["spec"]["initContainers"] = [{"name": f"init-{n}", "restartPolicy": restart} for n in range(len(states))]
    return found


def told(reason: str, message: str = "words", at: str = "2026-01-01T00:00:05Z", **others: Any) -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at, **others}


NO_ROOM = told("FailedScheduling", "0/3 nodes are available")
NO_SECRET = 'MountVolume.SetUp failed for volume "cache" : secret "x" not found'


@pytest.mark.parametrize(
    ("seen", "events", "words", "kind"),
    [
        (pod("Pending"), [], "no reason is given", K.UNSCHEDULABLE),
        (pod("Pending"), [NO_ROOM], "FailedScheduling: 0/3 nodes are available", K.UNSCHEDULABLE),
        (of_node(), [NO_ROOM], "its node has not started it yet", K.PREFLIGHT),
        (of_node(), [NO_ROOM, told("Scheduled"), told("Pulling", "Pulling x")], "Pulling: Pulling x", K.IMAGE),
        (of_node(), [NO_ROOM, told("FailedMount", NO_SECRET)], f"FailedMount: {NO_SECRET}", K.SETUP),
        (of_node(), [told("FailedMount"), told("Pulling")], "Pulling: words", K.IMAGE),
        (of_node(), [told("Pulling"), told("Pulled")], "its node has not started it yet", K.PREFLIGHT),
        (of_node(), [NO_ROOM, told("FailedCreatePodSandBox", "cni")], "FailedCreatePodSandBox: cni", K.PREFLIGHT),
        (of_node(), [told("Failed", "Failed to pull image")], "Failed: Failed to pull image", K.IMAGE),
        (init("terminated", "running"), [told("Pulling")], "its init container init-1 still runs", K.SETUP),
        (init("running", restart="Always"), [told("Pulling")], "Pulling: words", K.IMAGE),
    ],
)
def test_a_pod_waits_for_what_its_node_or_the_scheduler_says_of_it(
    seen: dict[str, Any], events: list[dict[str, Any]], words: str, kind: FailureKind
) -> None:
    watcher = Watcher(watch=POD)
    assert watcher.decide(sight(seen, *events), now_s=0) is None
    assert watcher.words == f"it waits to run: {words}"
    end = watcher.decide(sight(seen, *events), now_s=300)
    assert end is not None
    assert end.failure is not None
    assert (end.reason, end.failure.kind) == ("pending", kind)


@pytest.mark.parametrize(
    ("pods", "events", "words", "kind"),
    [
        ([], [], "0 of 2 pods are there, and no reason is given", K.SETUP),
        ([], [told("FailedCreate", 'serviceaccount "a" not found')], 'FailedCreate: serviceaccount "a"', K.SETUP),
        ([], [told("FailedCreate", "exceeded quota: gpus")], "FailedCreate: exceeded quota: gpus", K.QUOTA),
        ([of_node()] * 2, [told("FailedCreate", "exceeded quota: gpus")], "its node has not", K.PREFLIGHT),
    ],
)
def test_a_job_says_what_keeps_it_from_making_its_pods(
    pods: list[Any], events: list[Any], words: str, kind: FailureKind
) -> None:
    seen = Sight(owner=job(), pods=pods, events=events)
    watcher = Watcher(watch=JOB)
    assert watcher.decide(seen, now_s=0) is None
    assert f"it waits to run: {words}" in watcher.words
    end = watcher.decide(seen, now_s=300)
    assert end is not None
    assert end.failure is not None
    assert end.failure.kind == kind


@pytest.mark.parametrize(
    ("times", "is_over"),
    [
        ({"lastTimestamp": "2026-01-01T00:05:00Z"}, True),
        ({"lastTimestamp": None, "eventTime": "2026-01-01T00:05:00.000000Z"}, True),
        ({"lastTimestamp": None, "eventTime": "2026-01-01T00:00:01.000000Z"}, False),
        (
            {
                "lastTimestamp": None,
                "eventTime": "2026-01-01T00:00:01.000000Z",
                "series": {"count": 9, "lastObservedTime": "2026-01-01T00:05:00.000000Z"},
            },
            True,
        ),
    ],
)
def test_the_schedulers_own_times_count(times: dict[str, Any], is_over: bool) -> None:
    end = last(POD, (0, sight(pod("Pending"), NO_ROOM | times)))
    assert (end is not None) == is_over


def test_a_job_that_is_queued_again_waits_anew() -> None:
    suspended = {
        "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"suspend": True},
        "status": {
            "conditions": [{"type": "Suspended", "status": "True", "lastTransitionTime": "2026-01-01T02:00:00Z"}]
        },
    }
    for at, is_over in (("2026-01-01T02:04:59Z", False), ("2026-01-01T02:05:00Z", True)):
        end = last(JOB, (0, Sight(owner=suspended, events=[unschedulable(at)])))
        assert (end is not None) == is_over


def test_it_says_what_is_new_and_nothing_twice() -> None:
    watcher = Watcher(watch=POD)
    said = []
    for now_s, seen in enumerate(
        [pod("Pending"), pod("Pending"), pod("Running"), pod("Running"), pod("Running", ending=True)]
    ):
        watcher.decide(sight(seen, unschedulable()), now_s=now_s)
        said.append(watcher.words)
    assert said == [
        "it waits to run: FailedScheduling: 0/3 nodes are available",
        "",
        "it runs",
        "",
        "it was told to end",
    ]
    queued = Watcher(watch=JOB)
    queued.decide(Sight(owner=job(suspend=True)), now_s=0)
    assert queued.words == "it waits to run: suspended: its queue has not admitted it yet"


def test_silence_is_counted_from_its_beginning_and_forgotten_with_an_answer() -> None:
    watcher = Watcher(watch=POD)
    assert watcher.silent(now_s=0, error="503") is None
    assert watcher.silent(now_s=99, error="503") is None
    assert watcher.decide(sight(pod("Running")), now_s=100) is None
    assert watcher.silent(now_s=101, error="503") is None
    end = watcher.silent(now_s=201, error="503")
    assert end is not None
    assert end.failure is not None
    assert (end.reason, end.failure.kind) == ("silent", K.API_UNREACHABLE)


def test_an_end_is_small_and_holds_no_environment() -> None:
    end = last(POD, (0, sight(pod("Running"), *[unschedulable()] * 50)), (1, sight(None)))
    assert end is not None
    data = end.to_json()
    assert SECRET not in str(data)
    assert "spec" not in data["pods"][0]
    assert len(data["events"]) == 20
    assert End.from_json(data) == end
    assert Watch(**POD.to_json()) == POD


class _Store(dict[str, Any]):
    def set(self, key: str, value: Any) -> None:
        self[key] = value


def test_interruptions_are_counted_by_job_and_back_off() -> None:
    store = _Store()
    waits = []
    for _ in range(8):
        counted = Interruptions.of("job-1", store)
        assert counted.count(FailureKind.PREEMPTED, limit=8, checkpoint=None) == ""
        waits.append(counted.back_off_s)
    assert waits == [10, 20, 40, 80, 160, 320, 600, 600]
    assert Interruptions.of("job-1", store).num == 8
    assert Interruptions.of("job-2", store).num == 0
    Interruptions.of("job-1", store).wait(30)
    assert Interruptions.of("job-1", store).waited_s == 30
    Interruptions.of("job-1", store).wait_over()
    assert (Interruptions.of("job-1", store).num, Interruptions.of("job-1", store).waited_s) == (8, 0)
    Interruptions.of("job-1", store).reset()
    assert Interruptions.of("job-1", store).num == 0
    assert Interruptions.of("job-1", None).count(FailureKind.PREEMPTED, limit=1, checkpoint=None) == ""  # kept nowhere


def test_interruptions_end_at_their_limit_and_an_end_without_a_result_at_the_second_one() -> None:
    def again(*kinds: FailureKind) -> list[str]:
        store = _Store()
        return [Interruptions.of("job-1", store).count(kind, limit=2, checkpoint=None) for kind in kinds]

    lost, empty = FailureKind.NODE_LOST, FailureKind.NO_RESULT
    over = "That was interruption 3 without a new checkpoint, of 2 that are allowed. A retry of the task counts anew."
    assert again(lost, lost, lost, lost) == ["", "", over, ""]
    assert again(empty, lost) == ["", ""]
    first, second, third = again(empty, empty, empty)
    assert (first, third) == ("", "")
    assert "the second time in a row, so no retry follows" in second


def test_a_training_that_gets_on_is_interrupted_as_often_as_it_may_be() -> None:
    store = _Store()

    def count(checkpoint: str | None) -> tuple[str, int]:
        counted = Interruptions.of("job-1", store)
        return counted.count(FailureKind.PREEMPTED, limit=2, checkpoint=checkpoint), counted.num

    assert [count(None), count(None), count("s3://lake/0000000010")] == [("", 1), ("", 2), ("", 1)]
    assert [count(f"s3://lake/{step:010d}") for step in range(24, 40)] == [("", 1)] * 16
    assert count("s3://lake/0000000039") == ("", 2)
    assert "without a new checkpoint" in count("s3://lake/0000000038")[0]  # the newest one was damaged


def test_a_training_that_hardly_gets_on_waits_longer_and_longer_and_ends() -> None:
    store, waits, why = _Store(), [], ""
    while not why:
        counted = Interruptions.of("job-1", store)
        waits.append(counted.back_off_s)
        why = counted.count(FailureKind.PREFLIGHT, limit=5, checkpoint=f"s3://lake/{len(waits):010d}")
    assert why == (
        "That was interruption 51 in all, of 50 that are allowed with new checkpoints. A retry of the task counts anew."
    )
    assert (waits[1], waits[4:6], waits[10], waits[30], waits[50]) == (10, [10, 20], 40, 600, 600)
    assert Interruptions.of("job-1", store).total == 0
