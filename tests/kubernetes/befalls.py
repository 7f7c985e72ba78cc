"""What may befall a training, each drawn at random and armed before it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.kubernetes.fates import USERS, Fate
from tests.kubernetes.faults import Fault
from tests.kubernetes.surroundings import no_room, no_token, profile_gone

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.kubernetes.fates import By, Process, Stage
    from tests.kubernetes.sequences import Extent
    from tests.kubernetes.trainer import Run
    from tests.kubernetes.world import World

    Struck = Callable[[], None]
    Arm = Callable[[World, Random, Extent, Struck], None]

FLAWS = ("out_of_memory", "user_error", "bad_data", "exit_without_result")
"""What the job itself does; nothing comes on top."""
_READ_S = 5.0
_NODE_GONE_S = 600.0
_LOG = r"/log$"


def _nothing(_world: World, _draw: Random, _extent: Extent, _struck: Struck) -> None:
    """Arm nothing."""


def _end(stages: tuple[Stage, ...], by: By = "kill", *, is_heard: bool = True) -> Arm:
    """Return what ends a process of Airflow somewhere."""

    def arm(world: World, draw: Random, extent: Extent, struck: Struck) -> None:
        stage = draw.choice(stages)
        late = max(draw.random(), draw.random())  # what counts comes last: the pod is there, and who knows of it?
        at = 1 + int(late * extent.boundaries.get(stage, 1))
        fate = Fate(stage=stage, at_boundary=at, by=by, struck=struck, heard_at=0 if is_heard else None)
        fate.skip = draw.choice((0, 1)) if world.num_armed and by not in USERS else 0
        if by not in ("kill", "time_out"):
            fate.goes_on = draw.random() < 0.5
        if by == "clear" and stage == "watch":
            fate.heard_at = draw.choice((0, 0, 1 + int(draw.random() * extent.boundaries["first"]), None))
        world.num_armed += 1
        world.airflow.fates.append(fate)

    return arm


def _on_a_run(strike: Callable[[World, Random, str], None]) -> Arm:
    """Return what befalls a pod of the first run, or when it comes on top maybe of the second, at some second."""

    def arm(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
        number, at_s = draw.choice((0, 1)) if world.num_armed else 0, draw.random() * (world.trainer.work_s + 10)
        world.num_armed += 1
        before = world.trainer.began

        def began(run: Run) -> None:
            before(run)
            if len(world.trainer.runs) == number + 1:
                world.cluster.store.agenda.after(at_s, lambda: happen(run))

        def happen(run: Run) -> None:
            if pods := _still_there(world, run):
                struck()
                strike(world, draw, draw.choice(pods))

        world.trainer.began = began

    return arm


def _still_there(world: World, run: Run) -> list[str]:
    """Return the pods of a run that goes on, those that are seen: on a node that is cut off it may outlive them."""
    if run.ended_at is not None:
        return []
    return sorted(pod["metadata"]["name"] for pod in world.cluster.pods if pod["metadata"]["name"] in run.pods)


def _delete(world: World, draw: Random, pod: str) -> None:
    """Delete it by hand, half the times by force."""
    world.kubelets.delete(world.kubelets.find(pod), draw.choice((None, 0.0)))


def _lose_node(world: World, _draw: Random, pod: str) -> None:
    """Let its node die; it is taken out of the cluster ten minutes later, and another one comes."""
    name = world.kubelets.store.objects[world.kubelets.find(pod)]["spec"]["nodeName"]
    node = world.kubelets.nodes[name]
    world.cluster.nodes.lose(name)
    world.cluster.store.agenda.after(_NODE_GONE_S, lambda: world.cluster.nodes.remove(name))
    world.cluster.store.agenda.after(_NODE_GONE_S + 60, lambda: world.cluster.nodes.add(node))


def _lose_node_for_good(world: World, _draw: Random, pod: str) -> None:
    """Let its node die and stay in the cluster: its pods are told to end, and never say that they have."""
    world.cluster.nodes.lose(world.kubelets.store.objects[world.kubelets.find(pod)]["spec"]["nodeName"])


def _cut_node_off(world: World, draw: Random, pod: str) -> None:
    """Cut its node off from the API; the trainer goes on unseen, and the node comes back."""
    name = world.kubelets.store.objects[world.kubelets.find(pod)]["spec"]["nodeName"]
    world.cluster.nodes.lose(name, partition=True)
    world.cluster.store.agenda.after(draw.uniform(60, 900), lambda: world.cluster.nodes.heal(name))


def _vanish_when_done(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Take the pod's object away when its result is written and its process still lives."""
    after_s = draw.random() * 3

    def finished(run: Run) -> None:
        def happen() -> None:
            if pods := _still_there(world, run):
                struck()
                world.cluster.remove(pods[0])

        world.cluster.store.agenda.after(after_s, happen)

    world.trainer.finished = finished


def _out_of_memory(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let each run be killed at the same step, before its first checkpoint."""
    at_s = _READ_S + draw.random() * (world.trainer.checkpoint_s - 5)

    def happen(run: Run) -> None:
        if pods := _still_there(world, run):
            struck()
            world.cluster.out_of_memory(pods[-1])

    world.trainer.began = lambda run: world.cluster.store.agenda.after(at_s, lambda: happen(run))


def _user_error(world: World, _draw: Random, _extent: Extent, struck: Struck) -> None:
    world.trainer.flaw = "user_error"
    struck()


def _bad_data(world: World, _draw: Random, _extent: Extent, struck: Struck) -> None:
    world.trainer.flaw = "bad_data"
    struck()


def _no_result(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let the first run, or each one, exit 0 without a result."""
    world.trainer.flaw, world.trainer.num_flawed = "no_result", draw.choice((1, 1000))
    struck()


def _interrupted_often(world: World, draw: Random, extent: Extent, struck: Struck) -> None:
    """Let four runs be interrupted one after the other, as on spot nodes in a bad hour."""
    before, left = world.trainer.began, [4]

    def began(run: Run) -> None:
        before(run)
        if left[0] and not run.ended_at:
            left[0] -= 1
            disrupt = draw.choice((world.cluster.evict, world.cluster.press, world.cluster.preempt))
            at_s = draw.uniform(10, world.trainer.work_s / 5)
            world.cluster.store.agenda.after(at_s, lambda: happen(run, disrupt))

    def happen(run: Run, disrupt: Callable[[str], object]) -> None:
        if pods := _still_there(world, run):
            struck()
            disrupt(pods[-1])

    world.trainer.began = began


def ways_to_fail(draw: Random) -> tuple[Fault, ...]:
    """Return all the ways in which one call may go wrong."""
    return (
        Fault(code=500),
        Fault(code=503, retry_after_s=draw.randint(1, 20)),
        Fault(code=429, retry_after_s=draw.randint(1, 20)),
        Fault(code=503),
        Fault(code=504),
        Fault(code=401),
        Fault(kind="error_after", code=500),
        Fault(kind="error_after", code=504),
        Fault(kind="reset"),
        Fault(kind="reset_after"),
    )


def fail_a_call(world: World, stage: Stage, fault: Fault) -> None:
    """Let a call of the first process of a stage go wrong; `fault.skip` says which."""
    before = world.airflow.began

    def began(process: Process) -> None:
        before(process)
        if process.stage == stage and fault not in world.cluster.faults:
            world.cluster.faults.append(fault)

    world.airflow.began = began


def _api_error(world: World, draw: Random, extent: Extent, struck: Struck) -> None:
    """Let one call of some process go wrong."""
    stages: tuple[Stage, ...] = ("first", "first", "watch", "re_entry")
    stage = draw.choice(stages)
    fault = draw.choice(ways_to_fail(draw))
    fault.skip, fault.struck = int(draw.random() * extent.calls.get(stage, 1)), struck
    fail_a_call(world, stage, fault)


def _api_down(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let the whole API be away for a while."""
    fault = draw.choice((Fault(code=503, times=None), Fault(code=500, times=None), Fault(kind="reset", times=None)))
    fault.struck = struck
    agenda = world.cluster.store.agenda
    at_s, down_s = draw.random() * world.trainer.work_s, draw.uniform(10, 300)
    agenda.after(at_s, lambda: world.cluster.faults.append(fault))
    agenda.after(at_s + down_s, lambda: world.cluster.faults.remove(fault))


def _log_cut(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Cut the stream of the log, up to three times."""
    times = draw.randint(1, 3)
    cut = Fault(kind="cut", path=_LOG, num_bytes=draw.randint(0, 200), times=times, struck=struck)
    world.cluster.faults.append(cut)


def _finished_unwatched(world: World, draw: Random, extent: Extent, struck: Struck) -> None:
    """Let the pod end while nobody looks, for hours, and half the times be collected meanwhile."""
    if draw.random() < 0.5:
        _end(("watch",))(world, draw, extent, struck)
        world.airflow.triggerer_delay_s = 7200.0
    else:
        world.airflow.re_entry_delay_s = 7200.0
        world.trainer.finished = lambda _run: struck()
    if draw.random() < 0.5:
        world.kubelets.collect_ended_s = 600.0


def _clock_skew(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let Airflow's clock be up to a quarter of an hour off the cluster's."""
    world.simulation.skew_s = draw.choice((-1, 1)) * draw.uniform(30, 900)
    world.simulation.set_wall_clock()
    struck()


DISRUPTIONS: dict[str, Arm] = {
    "evicted": _on_a_run(lambda world, _draw, pod: world.cluster.evict(pod)),
    "node_pressure": _on_a_run(lambda world, _draw, pod: world.cluster.press(pod)),
    "preempted": _on_a_run(lambda world, _draw, pod: world.cluster.preempt(pod)),
    "deleted": _on_a_run(_delete),
    "node_lost": _on_a_run(_lose_node),
    "node_unreachable": _on_a_run(_cut_node_off),
    "vanished_when_done": _vanish_when_done,
}
PERSONS: dict[str, Arm] = {
    "cancelled": _end(("first", "watch", "watch"), "fail"),
    "cancelled_unheard": _end(("first", "watch", "watch", "re_entry"), "fail", is_heard=False),
    "run_deleted": _end(("first", "watch", "watch", "re_entry"), "delete"),
    "run_deleted_unheard": _end(("first", "watch", "watch", "re_entry"), "delete", is_heard=False),
    "cleared": _end(("first", "watch", "watch", "re_entry"), "clear"),
    "timed_out": _end(("first", "first", "re_entry"), "time_out"),
}
"""What a person does or has set; `unheard`: the worker or triggerer is gone in that moment, so no `on_kill` runs."""
FAULTS: dict[str, Arm] = {
    "nothing": _nothing,
    "worker_killed": _end(("first", "first", "re_entry")),
    "worker_stopped": _end(("first", "first", "re_entry"), "stop"),
    "triggerer_killed": _end(("watch",)),
    "triggerer_stopped": _end(("watch",), "stop"),
    **DISRUPTIONS,
    "out_of_memory": _out_of_memory,
    "user_error": _user_error,
    "bad_data": _bad_data,
    "exit_without_result": _no_result,
    "interrupted_often": _interrupted_often,
    "api_error": _api_error,
    "api_down": _api_down,
    "log_cut": _log_cut,
    "finished_unwatched": _finished_unwatched,
    "clock_skew": _clock_skew,
    **PERSONS,
    "node_stays_lost": _on_a_run(_lose_node_for_good),
    "no_token": no_token,
    "profile_gone": profile_gone,
    "no_room": no_room,
}
