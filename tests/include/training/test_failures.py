"""Truth tables: what ended a training, by what was seen; and one outcome from result and evidence together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from include.errors import BadInputError, SetupError, TrainingError
from include.training.failure_kinds import Standing
from include.training.failures import Evidence, Failure, FailureKind, classify, decide_outcome
from include.training.pod_status import exit_code, why_pending

K = FailureKind
RESULT = object()


def pod(
    phase: str = "Failed",
    *,
    code: int | None = None,
    ended: str = "Error",
    waiting: dict[str, str] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """Return a pod as the API writes it, with what these tests look at."""
    state: dict[str, Any] = {}
    if code is not None:
        state = {"terminated": {"exitCode": code, "reason": ended}}
    elif waiting:
        state = {"waiting": waiting}
    containers = [{"name": "base", "state": state}] if state else []
    return {"status": {"phase": phase, "containerStatuses": containers, **status}}


def disrupted(reason: str, code: int = 143) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "words"}
    return pod(code=code, conditions=[condition])


def scheduled(reason: str, message: str) -> dict[str, Any]:
    return pod(
        "Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]
    )


def event(reason: str, message: str = "words") -> dict[str, Any]:
    return {"reason": reason, "message": message}


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        (pod(code=1), K.USER_ERROR),
        (pod(code=64), K.USER_ERROR),
        (pod(code=65), K.BAD_DATA),
        (pod(code=66), K.PREFLIGHT),
        (pod(code=75), K.INTERRUPTED),
        (pod(code=78), K.SETUP),
        (pod(code=137), K.INTERRUPTED),
        (pod(code=143), K.INTERRUPTED),
        (pod(code=139), K.UNKNOWN),
        (pod(code=127), K.IMAGE),
        (pod(code=128, ended="StartError"), K.IMAGE),
        (pod(code=137, ended="OOMKilled"), K.OUT_OF_MEMORY),
        (pod(code=137, ended="ContainerStatusUnknown"), K.NODE_LOST),
        (disrupted("PreemptionByScheduler"), K.PREEMPTED),
        (disrupted("EvictionByEvictionAPI", 75), K.PREEMPTED),
        (disrupted("TerminationByKubelet", 137), K.PREEMPTED),
        (disrupted("DeletionByTaintManager"), K.NODE_LOST),
        (disrupted("DeletionByPodGC"), K.NODE_LOST),
        (disrupted("SomethingNew"), K.PREEMPTED),
        (disrupted("EvictionByEvictionAPI", 64), K.USER_ERROR),  # the trainer had refused before
        (disrupted("EvictionByEvictionAPI", 78), K.SETUP),
        (pod(reason="Evicted", message="The node was low on resource: memory."), K.PREEMPTED),
        (pod(reason="Evicted", message='Usage of EmptyDir volume "dshm" exceeds the limit "1Gi".'), K.OUT_OF_MEMORY),
        (pod(reason="NodeLost"), K.NODE_LOST),
        (pod(reason="DeadlineExceeded", code=137), K.DEADLINE),
        (pod(reason="OutOfnvidia.com/gpu"), K.PREFLIGHT),
        (pod(reason="UnexpectedAdmissionError"), K.PREFLIGHT),
        (pod("Pending", waiting={"reason": "ImagePullBackOff", "message": "not found"}), K.IMAGE),
        (scheduled("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), K.UNSCHEDULABLE),
        (scheduled("SchedulingGated", "Scheduling is blocked"), K.QUOTA),
        (pod(), K.UNKNOWN),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_a_pod_says_what_ended_it(seen: dict[str, Any], kind: FailureKind) -> None:
    found = classify(Evidence(pods=[seen]))
    assert found is not None
    assert found.kind is kind
    assert found.evidence


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([], K.VANISHED),
        ([event("FailedScheduling")], K.VANISHED),  # it waited for a node once; that did not delete it
        ([event("Preempted")], K.PREEMPTED),
        ([event("NodeNotReady"), event("Pulled")], K.NODE_LOST),
    ],
)
def test_a_pod_that_is_gone_was_never_a_success(events: list[dict[str, Any]], kind: FailureKind) -> None:
    outcome = decide_outcome(None, Evidence(pods=[pod("Running")], events=events, is_gone=True))
    assert outcome is not None
    assert not outcome.succeeded
    assert outcome.failure is not None
    assert outcome.failure.kind is kind
    assert outcome.failure.is_infrastructure


def test_several_pods_have_the_cause_that_tells_most() -> None:
    lost = pod(reason="NodeLost")
    others = [pod(code=1), pod(code=143)]
    found = classify(Evidence(pods=[*others, lost]))
    assert found is not None
    assert found.kind is K.NODE_LOST


def test_a_pod_that_still_waits_is_not_what_ended_the_others() -> None:
    """torchrun in the other pod was tired of waiting for it."""
    waits = scheduled("Unschedulable", "0/3 nodes are available")
    found = classify(Evidence(pods=[pod(code=75), waits]))
    assert found is not None
    assert (found.kind, found.is_infrastructure) == (K.INTERRUPTED, True)
    lost = pod("Running", conditions=disrupted("DeletionByTaintManager")["status"]["conditions"])
    cause = classify(Evidence(pods=[pod(code=75), waits, lost]))
    assert cause is not None
    assert cause.kind is K.NODE_LOST


def test_a_users_error_outranks_the_peers_that_it_interrupted() -> None:
    found = classify(Evidence(pods=[pod(code=75), pod(code=1)]))
    assert found is not None
    assert found.kind is K.USER_ERROR


def test_pending_says_why_in_the_words_of_the_machine() -> None:
    words = "0/3 nodes are available: 3 node(s) had untolerated taint {nvidia.com/gpu: present}."
    found = why_pending(scheduled("Unschedulable", words))
    assert found is not None
    assert found.evidence == (f"Unschedulable: {words}",)
    quota = why_pending(pod("Pending"), [event("FailedCreate", "exceeded quota: gpus, requested: 2, used: 8")])
    assert quota is not None
    assert (quota.kind, quota.evidence) == (
        K.QUOTA,
        ("FailedCreate: exceeded quota: gpus, requested: 2, used: 8",),
    )
    assert why_pending(pod("Pending"), [event("Pulling")]) is None
    assert why_pending(pod("Running"), [event("FailedScheduling")]) is None


ENDS = {
    "running": Evidence(pods=[pod("Running")]),
    "pending": Evidence(pods=[pod("Pending")]),
    "succeeded": Evidence(pods=[pod("Succeeded", code=0, ended="Completed")]),
    "failed": Evidence(pods=[pod(code=1)]),
    "evicted": Evidence(pods=[disrupted("EvictionByEvictionAPI")]),
    "gone": Evidence(pods=[pod("Running")], is_gone=True),
    "gone after success": Evidence(pods=[pod("Succeeded", code=0)], is_gone=True),
    "never seen": Evidence(is_gone=True),
    "exit 0": Evidence(exit_code=0),
    "exit 64": Evidence(exit_code=64, said=("error: no such data",)),
    "killed": Evidence(exit_code=-9),
    "too long": Evidence(stopped=Failure(kind=K.DEADLINE, evidence=("no end within 9 s",)), exit_code=75),
    "silent": Evidence(),
}
WITHOUT = {
    "running": None,
    "pending": None,
    "succeeded": K.NO_RESULT,
    "failed": K.USER_ERROR,
    "evicted": K.PREEMPTED,
    "gone": K.VANISHED,
    "gone after success": K.NO_RESULT,
    "never seen": K.VANISHED,
    "exit 0": K.NO_RESULT,
    "exit 64": K.USER_ERROR,
    "killed": K.INTERRUPTED,
    "too long": K.DEADLINE,
    "silent": None,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_whole_result_is_a_success_whatever_became_of_its_process(end: str) -> None:
    outcome = decide_outcome(RESULT, ENDS[end])
    assert outcome is not None
    assert outcome.succeeded


@pytest.mark.parametrize("end", ENDS)
def test_without_a_result_nothing_is_a_success(end: str) -> None:
    outcome = decide_outcome(None, ENDS[end])
    kind = WITHOUT[end]
    if kind is None:
        assert outcome is None
        return
    assert outcome is not None
    assert not outcome.succeeded
    assert outcome.failure is not None
    assert outcome.failure.kind is kind


@pytest.mark.parametrize("kind", K)
def test_each_kind_has_words_and_one_remedy(kind: FailureKind) -> None:
    failure = Failure(kind=kind, evidence=("exit code 9", "words"))
    assert not (failure.is_infrastructure and failure.needs_a_person)
    standing = Standing(checkpoint="s3://lake/7/checkpoints/40", spent="Its only start has taken 9 s.")
    text = failure.message("training job 7", standing)
    assert text.startswith(f"training job 7 must leave a whole result; got {kind}: ")
    assert (
        "(exit code 9; words). The newest checkpoint is s3://lake/7/checkpoints/40. Its only start has taken 9 s. "
        in text
    )
    assert ("No retry follows." in text) == failure.needs_a_person
    assert ("if the task has one left" in text) != failure.needs_a_person
    assert "No checkpoint was saved." in failure.message("training job 7", Standing())
    assert failure.message("training job 7", standing, next_try="Try 2 of 3 follows in 9 s.").endswith(
        "s. Try 2 of 3 follows in 9 s."
    )


def test_the_class_of_the_error_says_who_can_do_something() -> None:
    def raised(kind: FailureKind) -> type[BaseException]:
        return type(Failure(kind=kind).error("training job 7", Standing()))

    assert raised(K.USER_ERROR) is raised(K.BAD_DATA) is BadInputError
    assert raised(K.IMAGE) is raised(K.UNSCHEDULABLE) is raised(K.OUT_OF_MEMORY) is SetupError
    assert raised(K.NO_RESULT) is raised(K.SETUP) is SetupError
    assert raised(K.PREEMPTED) is raised(K.DEADLINE) is raised(K.API_UNREACHABLE) is raised(K.UNKNOWN) is TrainingError


def test_the_exit_code_is_that_of_the_container_that_failed() -> None:
    assert exit_code(pod("Succeeded", code=0)) == 0
    assert exit_code(pod("Running")) is None
    two = pod(code=0)
    two["status"]["containerStatuses"].append({"state": {"terminated": {"exitCode": 65}}})
    assert exit_code(two) == 65


def torchrun(cause: int) -> dict[str, Any]:
    """Return a pod whose container tells what torchrun prints last."""
    seen = pod(code=1)
    seen["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = f"""
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
include.training FAILED
------------------------------------------------------------
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  rank      : 0 (local_rank: 0)
  exitcode  : {cause} (pid: 42)
  error_file: <N/A>
============================================================"""
    return seen


@pytest.mark.parametrize(
    ("cause", "kind"),
    [(64, K.USER_ERROR), (65, K.BAD_DATA), (66, K.PREFLIGHT), (-15, K.INTERRUPTED), (1, K.USER_ERROR)],
)
def test_torchrun_ends_with_1_and_tells_who_failed_first(cause: int, kind: FailureKind) -> None:
    found = classify(Evidence(pods=[torchrun(cause)]))
    assert found is not None
    assert found.kind is kind
    assert exit_code(torchrun(cause)) == cause


@pytest.mark.parametrize(
    "words",
    [
        "torch.distributed.DistStoreError: Timed out after 601 seconds",
        "RendezvousTimeoutError",
        "torch.distributed.elastic.multiprocessing.api.SignalException: Process 7 got signal: 15",
    ],
)
def test_a_torchrun_that_nobody_joined_or_that_was_told_to_end_was_interrupted(words: str) -> None:
    seen = pod(code=1)
    seen["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = f"Traceback...\n{words}"
    found = classify(Evidence(pods=[seen]))
    assert found is not None
    assert found.kind is K.INTERRUPTED


def test_what_the_trainer_leaves_in_its_container_is_its_own_word() -> None:
    seen = pod(code=1)
    ended = seen["status"]["containerStatuses"][0]["state"]["terminated"]
    ended["message"] = json.dumps({"exit_code": 65, "message": "snapshot abc must be there; got none"})
    found = classify(Evidence(pods=[seen]))
    assert found is not None
    assert (found.kind, found.evidence) == (
        K.BAD_DATA,
        ("exit code 65, Error: snapshot abc must be there; got none",),
    )
    ended["exitCode"] = 137  # killed after it had written that
    assert exit_code(seen) == 137
    for message in ("{", "[]", '"text"', json.dumps({"exit_code": "65"})):
        ended |= {"exitCode": 1, "message": message}
        assert exit_code(seen) == 1
