"""What may befall a training from around it: its tokens, its profile, the room of its cluster."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING
from unittest import mock

from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from kubernetes_asyncio.config import ConfigException

from include.training.profiles import VARIABLE as PROFILES
from include.training.profiles import read_profiles
from tests.kubernetes.faults import Fault
from tests.kubernetes.nodes import GPU

if TYPE_CHECKING:
    from random import Random

    from tests.kubernetes.befalls import Struck
    from tests.kubernetes.sequences import Extent
    from tests.kubernetes.trainer import Run
    from tests.kubernetes.world import World

_NOBODY = 'pods is forbidden: User "system:anonymous" cannot list resource "pods" in API group ""'


def no_token(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let the plugin that gives tokens fail for a while: a trigger's client says so, a worker's goes on as nobody."""
    at_s, for_s = draw.random() * world.trainer.work_s, draw.uniform(10, 300)
    fault, before = Fault(code=403, says=_NOBODY, times=None), AsyncKubernetesHook.get_conn

    def get_conn(hook: AsyncKubernetesHook) -> object:
        if fault in world.cluster.faults:
            raise ConfigException("exec: process returned 255. STS: throttled")
        return before(hook)

    def begin() -> None:
        struck()
        world.cluster.faults.append(fault)

    world.also(mock.patch.object(AsyncKubernetesHook, "get_conn", get_conn))
    world.cluster.store.agenda.after(at_s, begin)
    world.cluster.store.agenda.after(at_s + for_s, lambda: world.cluster.faults.remove(fault))


def profile_gone(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Rename all profiles, or leave their file as nobody can read it, while the first run goes on."""
    path, is_spoilt = world.folder / "profiles.yaml", draw.random() < 0.5
    told = read_profiles().model_dump(mode="json", exclude_none=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told))
    at_s = draw.random() * world.trainer.work_s
    renamed = {name: f"{told[name]}_2" for name in ("default", "default_without_gpu")}
    changed = told | renamed | {"profiles": {f"{name}_2": held for name, held in told["profiles"].items()}}

    def happen(run: Run) -> None:
        if run.ended_at is None:
            struck()
            path.write_text("profiles: [" if is_spoilt else json.dumps(changed))
            os.utime(path, ns=(1, 1))

    world.also(mock.patch.dict(os.environ, {PROFILES: str(path)}))
    world.trainer.began = lambda run: world.cluster.store.agenda.after(at_s, lambda: happen(run))


def no_room(world: World, draw: Random, _extent: Extent, struck: Struck) -> None:
    """Let the GPUs be others' for a while, so that the scheduler says again and again why it waits."""
    rooms = {node.name: node.room for node in world.kubelets.nodes.values()}
    for node in world.kubelets.nodes.values():
        node.room = {**node.room, GPU: "0"}

    def free() -> None:
        struck()
        for node in world.kubelets.nodes.values():
            node.room = rooms.get(node.name, node.room)

    world.cluster.store.agenda.after(draw.uniform(60, 1500), free)
